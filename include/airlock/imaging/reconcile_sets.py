"""The image sets of a data store compared with those of the ledger: candidates for differences, and their judgement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.columns import FindingKind, InstanceState
from airlock.records import study_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.imaging.reconcile_store import Seen

LOCKED = "LOCKED"  # the image set is being changed


def group_sets(stored: pl.DataFrame) -> pl.DataFrame:
    """Return the image sets of stored instances: their study, latest version, and whether they must be primary."""
    return (
        stored.drop_nulls("image_set_id")
        .group_by("image_set_id")
        .agg(
            pl.col("StudyInstanceUID").first(),
            version=pl.col("image_set_version").max(),
            is_primary=(pl.col("state") == InstanceState.IMPORTED.value).any(),
        )
        .sort("image_set_id")
    )


def find_candidates(sets: pl.DataFrame, listed: pl.DataFrame) -> pl.DataFrame:
    """Return the image sets that a listing does not show as the ledger has them.

    Parameters
    ----------
    sets
        Of `group_sets`.
    listed
        `LISTED`, of the same studies.

    Returns
    -------
    polars.DataFrame
        Columns of *sets*, null for an image set that the ledger does not know, and ``study_listed``.
    """
    there = listed.select(
        "image_set_id", study_listed="StudyInstanceUID", version_listed="version", primary_listed="is_primary"
    ).unique("image_set_id", keep="last", maintain_order=True)
    both = sets.join(there, on="image_set_id", how="full", coalesce=True)
    one_sided = pl.col("StudyInstanceUID").is_null() | pl.col("study_listed").is_null()
    other = (pl.col("version") != pl.col("version_listed")) | (pl.col("is_primary") != pl.col("primary_listed"))
    return both.filter(one_sided | other.fill_null(value=False)).sort("image_set_id")


def judge(row: dict[str, Any], seen: dict[str, Seen | None], stored: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the differences of an image set that GetImageSet confirms, as rows of `FOUND`.

    *row* is one of `find_candidates`, *stored* the instances of its study by the ledger.
    """
    name, one = row["image_set_id"], seen[row["image_set_id"]]
    uid = row["StudyInstanceUID"]
    about = {"study_key": study_key(uid or row["study_listed"] or ""), "image_set_id": name, "arrival_id": None}
    expected = None if uid is None else _describe(row["version"], row["is_primary"])
    if one is not None and one.state == LOCKED:
        return
    if uid is None:
        if one is not None:
            foreign = {"kind": FindingKind.FOREIGN_IN_STORE.value, "subject": name, "expected": None}
            yield about | foreign | {"found": _describe(one.version, one.is_primary)}
    elif one is None:
        missing = {"kind": FindingKind.MISSING_IN_STORE.value, "expected": expected, "found": None}
        for item in stored.filter(pl.col("image_set_id") == name).iter_rows(named=True):
            yield about | missing | {"subject": item["SOPInstanceUID"], "arrival_id": item["arrival_id"]}
    elif not _is_as_expected(row, one):
        other = {"kind": FindingKind.OTHER_VERSION.value, "subject": name, "expected": expected}
        yield about | other | {"found": _describe(one.version, one.is_primary)}


def _is_as_expected(row: dict[str, Any], one: Seen) -> bool:
    same_version = row["version"] is None or row["version"] == one.version
    return same_version and (one.is_primary is None or one.is_primary == row["is_primary"])


def _describe(version: int | None, is_primary: bool | None) -> str:
    number = "version unknown" if version is None else f"version {version}"
    return number if is_primary is None else f"{number}, {'primary' if is_primary else 'not primary'}"
