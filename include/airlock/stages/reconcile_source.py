"""The objects of released arrivals in a reconciliation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.columns import FindingKind
from airlock.ledger.comparisons import FOUND
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.ledger import Ledger
    from airlock.storage.requests import RequestMeter
    from airlock.storage.s3 import S3

REQUESTS_IN_FLIGHT = 16


class Archive:
    """S3, with the objects and the workspace, at a rate; its client repeats requests by itself."""

    def __init__(self, s3: S3, meter: RequestMeter) -> None:
        self.s3 = s3
        self.meter = meter
        meter.attach(s3.client)

    def find_all(self, addresses: Iterable[S3Uri]) -> list[dict[str, Any] | None]:
        """Return the objects under these keys, several at a time."""
        with ThreadPoolExecutor(REQUESTS_IN_FLIGHT) as pool:
            return list(pool.map(self.s3.find, addresses))


@dataclass(frozen=True)
class ObjectComparison:
    """Arrivals compared with their objects."""

    found: pl.DataFrame  # `FOUND`: the object is gone or has another content
    objects: int
    young: tuple[str, ...]  # arrivals whose object was replaced so recently that it is left to the next run

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of compared and of young objects."""
        return {"objects": self.objects, "young": len(self.young)}


def compare_objects(ledger: Ledger, archive: Archive, objects: pl.DataFrame, young_hours: float) -> ObjectComparison:
    """Compare released arrivals with their objects.

    Parameters
    ----------
    ledger, archive
        The ledger, and S3.
    objects
        ``arrival_id``, ``study_key``, ``bucket``, ``key`` and ``etag``.
    young_hours
        An object that was replaced within these hours is left to the next run, without a new finding.
    """
    rows = objects.to_dicts()
    now_there = archive.find_all(S3Uri(row["bucket"], row["key"]) for row in rows)
    gone = [row for row, found in zip(rows, now_there, strict=True) if found is None]
    replaced = [
        row | {"found": found["etag"], "modified": found["last_modified"]}
        for row, found in zip(rows, now_there, strict=True)
        if found is not None and found["etag"] != row["etag"]
    ]
    replaced = _leave_out_arrived(ledger, replaced)
    oldest = datetime.now(UTC) - timedelta(hours=young_hours)
    old = [row for row in replaced if row["modified"] < oldest]
    young = tuple(row["arrival_id"] for row in replaced if row["modified"] >= oldest)
    vanished = [_finding(FindingKind.VANISHED, row, None) for row in gone]
    others = [_finding(FindingKind.OTHER_CONTENT, row, f"etag {row['found']}") for row in old]
    return ObjectComparison(pl.DataFrame([*vanished, *others], FOUND, orient="row"), len(rows), young)


def _leave_out_arrived(ledger: Ledger, replaced: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out objects whose present content is an arrival of its own: runs decide on it."""
    if not replaced:
        return []
    present = pl.DataFrame([(row["bucket"], row["key"], row["found"]) for row in replaced], orient="row")
    arrived = ledger.find_arrived(present.rename(dict(zip(present.columns, ("bucket", "key", "etag"), strict=True))))
    return [row for row in replaced if (row["bucket"], row["key"], row["found"]) not in arrived]


def _finding(kind: FindingKind, row: dict[str, Any], found: str | None) -> dict[str, Any]:
    return {
        "kind": kind.value,
        "subject": row["arrival_id"],
        "study_key": row["study_key"],
        "arrival_id": row["arrival_id"],
        "expected": f"etag {row['etag']}",
        "found": found,
    }
