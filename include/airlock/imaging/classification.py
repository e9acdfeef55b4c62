"""Classification: what headers say of the kind of a series and of the procedure of a study, each with its tags.

Only what stands in a header is named, as it stands there; nothing is derived from pixels, descriptions or other
studies. A value that no header has is absent. The values of later deliveries are added to those of earlier ones, so
that their order changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.dicom.sop_classes import find_family

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Each fact about a series with the attributes that it comes from, and their tags (PS3.6).
FACTS: dict[str, dict[str, str]] = {
    "kind": {"ImageType": "(0008,0008)"},
    "sop_class_family": {"SOPClassUID": "(0008,0016)"},
    "contrast": {"ContrastBolusAgent": "(0018,0010)"},
    "laterality": {"Laterality": "(0020,0060)", "ImageLaterality": "(0020,0062)"},
}
SERIES_VALUES = tuple(dict.fromkeys(name for source in FACTS.values() for name in source))
PROCEDURE_TAG = "(0008,1032)"
_IMAGE_KINDS = {"ORIGINAL": "original", "DERIVED": "derived"}  # value 1 of ImageType (PS3.3 section C.7.6.1.1.2)
_LOCALIZER = "LOCALIZER"  # value 3 (PS3.3 section C.8.2.1.1.1)


def distinct(keyword: str) -> pl.Expr:
    """Return the distinct values of an attribute in a group that are not empty."""
    return pl.col(keyword).filter(pl.col(keyword) != "").unique()


def describe_series(values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the field ``classification`` of a series in a contract.

    Parameters
    ----------
    values
        By each of `SERIES_VALUES`, its distinct values in the series.
    """
    return {fact: _describe_fact(fact, values) for fact in FACTS}


def _describe_fact(fact: str, values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    found, tags = set(), []
    for keyword, tag in FACTS[fact].items():
        read = {_read(keyword, value) for value in values[keyword]} - {None}
        if read:
            found |= read
            tags.append(tag)
    return {"values": sorted(filter(None, found)), "tags": tags}


def _read(keyword: str, value: str) -> str | None:
    if keyword == "ImageType":
        return find_kind(value)
    return find_family(value) if keyword == "SOPClassUID" else value


def find_kind(image_type: str) -> str | None:
    """Return whether ImageType says original, derived or localizer; None if it says none of them."""
    parts = [part.strip().upper() for part in image_type.split("\\")]
    if len(parts) > 2 and parts[2] == _LOCALIZER:  # value 3
        return "localizer"
    return _IMAGE_KINDS.get(parts[0])


def merge_series(earlier: Mapping[str, Any] | None, later: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the facts of two deliveries of a series; None if neither has any."""
    if earlier is None or later is None:
        found = earlier or later
        return None if found is None else dict(found)
    return {
        fact: {part: sorted({*earlier[fact][part], *later[fact][part]}) for part in ("values", "tags")}
        for fact in FACTS
    }


def describe_procedures(codes: Iterable[str]) -> list[dict[str, str | None]]:
    """Return the field ``procedures`` of a contract from distinct values of `records.PROCEDURE_CODES`."""
    return _order(_describe_code(text) for text in codes)


def merge_procedures(
    earlier: Iterable[dict[str, str | None]], later: Iterable[dict[str, str | None]]
) -> list[dict[str, str | None]]:
    """Return the codes of two deliveries of a study, each once."""
    return _order([*earlier, *later])


def _describe_code(text: str) -> dict[str, str | None]:
    code, scheme, meaning = (*text.split("\\"), "", "")[:3]
    return {"code": code or None, "scheme": scheme or None, "meaning": meaning or None, "tag": PROCEDURE_TAG}


def _order(codes: Iterable[dict[str, str | None]]) -> list[dict[str, str | None]]:
    known = {tuple(code.values()): code for code in codes}
    return [known[key] for key in sorted(known, key=lambda key: tuple(value or "" for value in key))]
