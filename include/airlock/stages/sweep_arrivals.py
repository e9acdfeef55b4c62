"""The other direction of a sweep: from the arrivals of the ledger to the objects that were listed.

The arrivals come from the ledger in pieces, and are compared with the hashes of the listed keys partition by partition
on the local disk. On the way, the folders from which something has come before are found.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.sweeps import KEYS
from airlock.records import schema
from airlock.stages.inventory import InventoryError
from airlock.stages.sites import first_folder
from airlock.stages.sweep_work import VANISHED
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import Partitions, partition_hash, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.stages.sweep_work import Sweeping

LISTED_KEYS = "keys"  # the list of parts
MOST_NAMED = 10_000  # vanished arrivals that become findings
CHECKED = 1_000  # of the vanished objects that are looked up once more
_LEAST_WRONG = 10  # existing objects that an inventory may lack
_HASHES = pl.Schema({"hash": pl.UInt64})
_KNOWN = schema(KEYS, _HASHES)


def hash_keys(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the hashes of listed keys, for the list `LISTED_KEYS`."""
    return rows.select(_hash())


def _hash() -> pl.Expr:
    return partition_hash(pl.col("key")).alias("hash")


def compare_arrivals(work: Sweeping, arrivals: int, candidates: pl.Series) -> tuple[pl.DataFrame, pl.Series]:
    """Count the vanished arrivals; return the first of them as `KEYS`, and the folders of the candidates with arrivals.

    Raises
    ------
    InventoryError
        If much of what the inventory lacks exists.
    """
    seen: set[str] = set()
    with Partitions(max(arrivals, work.counts.listed)) as partitions:
        listed = partitions.spool(pl.col("hash"), _HASHES, work.files.read(LISTED_KEYS))
        known = partitions.spool(pl.col("hash"), _KNOWN, _read_arrivals(work, candidates, seen))
        named = _find_vanished(work, zip_partitions(listed, known))
    return named, pl.Series("folder", sorted(seen), pl.String)


def _read_arrivals(work: Sweeping, candidates: pl.Series, seen: set[str]) -> Iterator[pl.DataFrame]:
    """Yield the arrivals below the source that a listing must have, and add the candidates with arrivals to *seen*."""
    before = min(work.comparison.began_at, work.source.complete_until)
    for rows in work.ledger.arrival_keys(work.pipeline.name, work.prefix.bucket, datetime.now(UTC)):
        below = rows.filter(pl.col("key").str.starts_with(work.prefix.key))
        folders = below.select(first_folder(work.prefix)).to_series()
        seen.update(folders.filter(folders.is_in(candidates.implode())))
        yield below.filter(pl.col("claimed_at") < before).with_columns(_hash())


def _find_vanished(work: Sweeping, partitions: Iterable[tuple[pl.DataFrame, ...]]) -> pl.DataFrame:
    """Count the arrivals whose keys were not listed, one per key, and return the first `MOST_NAMED`."""
    named = KEYS.to_frame()
    checked = existing = 0
    for listed, known in partitions:
        gone = known.join(listed, on="hash", how="anti").sort("claimed_at", "arrival_id")
        gone = gone.unique("key", keep="last").sort("key").select(KEYS.names())
        looked_up = gone.head(CHECKED - checked)
        exists = pl.Series(
            [work.s3.exists(S3Uri(work.prefix.bucket, key)) for key in looked_up["key"]], dtype=pl.Boolean
        )
        checked, existing = checked + looked_up.height, existing + int(exists.sum())
        gone = pl.concat([looked_up.filter(~exists), gone.slice(looked_up.height)])
        work.counts.add(VANISHED, work.sites.add_to(gone))
        named = pl.concat([named, gone.head(MOST_NAMED - named.height)])
    _check_inventory(work, checked, existing)
    return named


def _check_inventory(work: Sweeping, checked: int, existing: int) -> None:
    """Refuse an inventory that lacks objects: everything else that it lacks would count as vanished.

    Raises
    ------
    InventoryError
        With the numbers.
    """
    if work.source.may_be_incomplete and existing > max(_LEAST_WRONG, checked // 2):
        raise InventoryError(
            f"The inventory is incomplete: {existing} of {checked} objects that it lacks exist. Check whether its "
            f"configuration covers all of source.uri, then sweep again."
        )
