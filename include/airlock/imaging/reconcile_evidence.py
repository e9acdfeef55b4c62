"""The evidence of study contracts in the ledger: the rows of their instances and arrivals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.stages.reconcile_evidence import describe_lacking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger


def find_lacking_rows(
    ledger: Ledger, datastore_id: str, keys: dict[str, str], stored: pl.DataFrame
) -> Iterator[dict[str, Any]]:
    """Yield the findings about studies whose contract names instances, or whose instances name arrivals, without rows.

    Parameters
    ----------
    ledger, datastore_id
        The ledger and the data store.
    keys
        The study key by StudyInstanceUID.
    stored
        `reconciled.STORED` of the studies.
    """
    contracts = ledger.contracts(datastore_id, pl.Series(list(keys), dtype=pl.String))
    known = set(stored["SOPInstanceUID"])
    named = {row["subject"]: name_instances(row["contract"]) - known for row in contracts.iter_rows(named=True)}
    absent = pl.Series([uid for uids in named.values() for uid in uids], dtype=pl.String)
    lost = ledger.find_lost(datastore_id, absent) if absent.len() else set()
    for uid, instances in named.items():
        number = len(instances - lost)
        if number:
            text = f"the ledger has no row of {number} instances"
            yield describe_lacking(f"instances of {keys[uid]}", keys[uid], text)
    without = stored.filter(pl.col("bucket").is_null()).group_by("StudyInstanceUID").len()
    for uid, number in without.sort("StudyInstanceUID").iter_rows():
        yield describe_lacking(f"arrivals of {keys[uid]}", keys[uid], f"the ledger has no row of {number} arrivals")


def name_instances(contract: str) -> set[str]:
    """Return the SOPInstanceUIDs that a study contract names."""
    return {one["SOPInstanceUID"] for series in json.loads(contract)["series"] for one in series["instances"]}
