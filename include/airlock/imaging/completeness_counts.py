"""The counts of studies that completeness needs from the ledger, asked for as few studies as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from airlock.imaging.completeness import add_stored, count_instances, find_short, merge_declared, read_earlier
from airlock.ledger.columns import InstanceState

if TYPE_CHECKING:
    from collections.abc import Collection

    from airlock.ledger import Ledger

_CAUSES = pl.Schema({"StudyInstanceUID": pl.String, "cause": pl.String})


class StudyFiles(NamedTuple):
    """The files of whole studies in this run, and those of other runs."""

    verdicts: pl.DataFrame  # as `completeness.count_instances` takes them, as the next
    outcomes: pl.DataFrame
    missing: Collection[tuple[str, str]]  # files of other runs that were not imported: StudyInstanceUID and file
    in_flight: Collection[tuple[str, str]]  # studies with files that other runs have not settled, and these runs


def find_imported(ledger: Ledger, datastore_id: str, uids: pl.Series) -> pl.Series:
    """Return those of the SOPInstanceUIDs that any run has imported into the data store, sorted."""
    if uids.is_empty():
        return uids
    known = ledger.known_instances(datastore_id, uids)
    return known.filter(pl.col("state") == InstanceState.IMPORTED)["SOPInstanceUID"]


def merge_earlier(studies: pl.Series, declared: pl.DataFrame, contracts: pl.DataFrame) -> pl.DataFrame:
    """Return the declared number of each study by this run and the earlier contracts; see `merge_declared`."""
    return merge_declared(studies, declared, read_earlier(contracts))


def count_studies(
    ledger: Ledger, datastore_id: str, own_run: str | None, numbers: pl.DataFrame, files: StudyFiles
) -> pl.DataFrame:
    """Return the counts of studies, as `completeness.COUNTS`.

    What other runs have stored is asked only of studies that would be short without it.

    Parameters
    ----------
    ledger, datastore_id
        The ledger and the data store.
    own_run
        The run whose files these are; None for a plan, which has none in the ledger.
    numbers
        The result of `merge_earlier`.
    files
        The files of these studies.
    """
    elsewhere = {"quarantined": _count_causes(files.missing)}
    if files.in_flight:
        studies = pl.Series(sorted({uid for uid, _ in files.in_flight}), dtype=pl.String)
        elsewhere["waiting"] = ledger.count_unsettled(datastore_id, studies, except_run=own_run)
    counts = count_instances(numbers, files.verdicts, files.outcomes, elsewhere)
    short = find_short(counts)
    if short.is_empty():
        return counts
    return add_stored(counts, ledger.count_stored(datastore_id, short, except_run=own_run))


def _count_causes(causes: Collection[tuple[str, str]]) -> pl.DataFrame:
    rows = pl.DataFrame(list(causes), schema=_CAUSES, orient="row")
    return rows.group_by("StudyInstanceUID").agg(instances=pl.len().cast(pl.Int64))
