"""What the data-transformation service allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Quotas of data transformation; AWS shows them in preview and may change them.

    Parameters
    ----------
    profiles : int
        Profiles of an account.
    versions : int
        Publications of one profile; the model ends at 99.
    bytes_per_job : int
        More input: the job fails.
    bytes_per_document : int
        A larger document gets an error file. AWS publishes no such figure.
    """

    profiles: int = 20
    versions: int = 99
    bytes_per_job: int = 1 << 30
    bytes_per_document: int = 20 << 20
