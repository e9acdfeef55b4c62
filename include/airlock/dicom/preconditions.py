"""HealthImaging's requirements on one file, as rules with a reason code each.

The limits are settings (``pipelines.Limits``), since AWS's pages contradict each other. Sources: HealthImaging
developer guide, "DICOM validation", "Supported transfer syntaxes", "Element constraints".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from airlock.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import Limits

UID_ATTRIBUTES = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
UID_PATTERN = r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*$"  # PS3.5 section 9.1
UID_LENGTH = 64

MANDATORY = {
    "SOPInstanceUID": Reason.MISSING_SOP_INSTANCE_UID,
    "StudyInstanceUID": Reason.MISSING_STUDY_INSTANCE_UID,
    "SeriesInstanceUID": Reason.MISSING_SERIES_INSTANCE_UID,
    "SOPClassUID": Reason.MISSING_SOP_CLASS_UID,
    "TransferSyntaxUID": Reason.MISSING_TRANSFER_SYNTAX_UID,
}

_IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
TRANSFER_SYNTAXES = frozenset(
    {
        _IMPLICIT_LITTLE_ENDIAN,
        *(
            f"{_IMPLICIT_LITTLE_ENDIAN}.{suffix}"
            for suffix in (
                *("1", "1.99", "2", "5"),
                *(f"4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93, 112, 201, 202, 203)),
                *(f"4.{number}" for number in range(100, 109)),
                *(f"4.{number}.1" for number in range(100, 107)),
            )
        ),
    }
)


@dataclass(frozen=True)
class FileRule:
    """One rule on one file: if ``finds`` is true, the file has this reason; ``detail`` names the attribute."""

    reason: Reason
    finds: pl.Expr
    detail: str


def file_rules(limits: Limits) -> Iterator[FileRule]:
    """Yield the rules in the order in which they apply: the first that finds something gives the reason."""
    for keyword, reason in MANDATORY.items():
        yield FileRule(reason, is_empty(keyword), keyword)
    yield FileRule(Reason.FILE_TOO_LARGE, pl.col("size") > limits.file_bytes, f"more than {limits.file_bytes} bytes")
    for keyword, longest in limits.element_lengths.items():
        too_long = pl.col(keyword).str.len_chars() > longest
        yield FileRule(Reason.ELEMENT_TOO_LONG, too_long, f"{keyword} is longer than {longest} characters")
    for keyword, highest in (
        ("NumberOfStudyRelatedSeries", limits.related_series),
        ("NumberOfStudyRelatedInstances", limits.related_instances),
    ):
        # Float64: the value may have more digits than an integer holds.
        count = pl.col(keyword).str.strip_chars().cast(pl.Float64, strict=False)
        yield FileRule(Reason.COUNT_OUT_OF_RANGE, count > highest, f"{keyword} is above {highest}")
    for keyword in UID_ATTRIBUTES:
        legal = pl.col(keyword).str.contains(UID_PATTERN) & (pl.col(keyword).str.len_chars() <= UID_LENGTH)
        yield FileRule(Reason.INVALID_UID, ~legal, keyword)
    unknown = ~pl.col("TransferSyntaxUID").is_in(sorted(TRANSFER_SYNTAXES))
    yield FileRule(Reason.UNKNOWN_TRANSFER_SYNTAX, unknown, "TransferSyntaxUID")


def is_empty(keyword: str) -> pl.Expr:
    """Return the condition that an attribute is absent or has no value."""
    return pl.col(keyword).fill_null("").str.strip_chars() == ""
