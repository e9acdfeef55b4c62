"""The content of image sets in a reconciliation: their instances, grouping elements and frames, by their metadata.

The metadata document is that of GetImageSetMetadata (HealthImaging developer guide, "Getting image set metadata").
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.columns import FindingKind, InstanceState
from airlock.ledger.comparisons import FOUND
from airlock.records import study_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# HealthImaging's grouping elements: a primary image set has one value of each.
GROUPING = {"PatientID": "Patient", "StudyDate": "Study", "AccessionNumber": "Study", "StudyID": "Study"}


def compare_content(
    stored: pl.DataFrame, documents: Mapping[str, dict[str, Any]], contracts: pl.DataFrame
) -> pl.DataFrame:
    """Return the differences between image sets and what was imported into them, as `FOUND`.

    Parameters
    ----------
    stored
        `reconciled.STORED`: the instances of the image sets.
    documents
        The metadata by image set; an empty document is that of one that has just gone.
    contracts
        `records.CONTRACTS` of the studies.
    """
    known = {row["subject"]: json.loads(row["contract"]) for row in contracts.iter_rows(named=True)}
    rows: list[dict[str, Any]] = []
    groups = stored.drop_nulls("image_set_id").group_by("image_set_id", maintain_order=True)
    for (name,), instances in groups:
        document = documents.get(str(name)) or {}
        if document:
            contract = known.get(instances["StudyInstanceUID"][0], {})
            rows += _compare_set(str(name), instances, document, contract)
    return pl.DataFrame(rows, FOUND, orient="row")


def _compare_set(
    name: str, instances: pl.DataFrame, document: dict[str, Any], contract: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    key = study_key(instances["StudyInstanceUID"][0])
    about = {"study_key": key, "image_set_id": name, "arrival_id": None}
    held = {
        uid: entry
        for series in document.get("Study", {}).get("Series", {}).values()
        for uid, entry in series.get("Instances", {}).items()
    }
    expected = dict(instances.select("SOPInstanceUID", "arrival_id").iter_rows())
    lacking, others = [uid for uid in expected if uid not in held], len(held.keys() - expected.keys())
    if lacking or others:
        found = f"{len(held)} instances, {others} of them unknown" if others else f"{len(held)} instances"
        yield about | {
            "kind": FindingKind.OTHER_INSTANCE_COUNT.value,
            "subject": name,
            "expected": f"{len(expected)} instances",
            "found": found,
        }
    for uid in lacking:
        yield about | {
            "kind": FindingKind.MISSING_IN_STORE.value,
            "subject": uid,
            "arrival_id": expected[uid],
            "expected": "in its image set",
            "found": "the image set lacks it",
        }
    other = {"kind": FindingKind.OTHER_CONTENT.value}
    is_primary = (instances["state"] == InstanceState.IMPORTED.value).all()
    differing = [element for element in GROUPING if _differs(element, document, contract)] if is_primary else []
    if differing:
        yield (
            about
            | other
            | {"subject": name, "expected": "as in the contract", "found": f"other {', '.join(differing)}"}
        )
    for uid, frames, declared in _find_other_frames(held, contract):
        if uid in expected:
            facts = {"arrival_id": expected[uid], "expected": f"{declared} frames", "found": f"{frames} frames"}
            yield about | other | {"subject": uid} | facts


def _differs(element: str, document: dict[str, Any], contract: dict[str, Any]) -> bool:
    stored = str(document.get(GROUPING[element], {}).get("DICOM", {}).get(element) or "").strip()
    named = str(contract.get(element) or "").strip()
    return bool(contract) and stored != named


def _find_other_frames(held: dict[str, Any], contract: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield instances with another number of frames than declared; none counts as not extracted, which is a warning."""
    for series in contract.get("series", ()):
        for one in series["instances"]:
            declared = str(one.get("NumberOfFrames") or "").strip()
            frames = len(held.get(one["SOPInstanceUID"], {}).get("ImageFrames") or ())
            if (
                frames
                and declared.isascii()
                and declared.isdecimal()
                and len(declared) < 10
                and int(declared) != frames
            ):
                yield one["SOPInstanceUID"], frames, int(declared)
