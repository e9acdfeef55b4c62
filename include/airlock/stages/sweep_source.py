"""Everything below a pipeline's source, frame by frame: from listings in parallel, or from an S3 Inventory.

Both name the position after which an interrupted sweep goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airlock.stages.inventory import fresh_inventory, list_inventory
from airlock.storage.key_ranges import KeyRange, RangedListing
from airlock.storage.listing import LISTED
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import polars as pl

    from airlock.pipelines import Pipeline
    from airlock.storage.s3 import S3

# S3 dates an object at the start of its upload; an inventory may lack one that was uploaded while S3 wrote it.
_INVENTORY_LAG = timedelta(hours=24)


class SweepSource(ABC):
    """The objects below a source, for a sweep that begins now.

    Attributes
    ----------
    edition
        What is read; a sweep goes on at its position only with the same one.
    complete_until
        Objects that runs claimed before this time are in the source's frames, if they exist.
    may_be_incomplete
        Whether objects may be missing all the same, if somebody else chooses what is listed.
    """

    edition: str
    complete_until: datetime
    may_be_incomplete: bool

    def __init__(self, s3: S3, pipeline: Pipeline, now: datetime) -> None:
        self.complete_until = now
        self._s3 = s3
        self._uri = S3Uri.parse(pipeline.source.uri)
        self._pipeline = pipeline

    @abstractmethod
    def frames(self, position: Any) -> Iterator[tuple[pl.DataFrame, Any]]:
        """Yield objects as `listing.LISTED`, each frame with the position behind it.

        Parameters
        ----------
        position
            As JSON, from an earlier call: frames before it are left out. None begins.

        Yields
        ------
        rows
            Objects, without folder placeholders; there may be none.
        position
            None where a sweep cannot go on.
        """


class BucketSource(SweepSource):
    """Listings of key ranges in parallel."""

    edition = "s3"
    may_be_incomplete = False

    def frames(self, position: Any) -> Iterator[tuple[pl.DataFrame, Any]]:
        """Yield objects; the position has the ranges of keys that are left, as lists of two keys."""
        left = None if position is None else [KeyRange(*keys) for keys in position if keys is not None]
        listing = RangedListing(self._s3, self._uri, self._pipeline.source.listings, left)
        for rows in listing:
            yield rows, _as_json(listing.left)
        yield LISTED.to_frame(), []


class InventorySource(SweepSource):
    """The newest S3 Inventory; a sweep goes on at a file of the same inventory only."""

    may_be_incomplete = True

    def __init__(self, s3: S3, pipeline: Pipeline, now: datetime) -> None:
        super().__init__(s3, pipeline, now)
        self._inventory = fresh_inventory(s3, pipeline.source, now)
        self.edition = f"inventory {self._inventory.begun:%Y-%m-%dT%H:%MZ}"
        self.complete_until = min(now, self._inventory.begun - _INVENTORY_LAG)

    def frames(self, position: Any) -> Iterator[tuple[pl.DataFrame, Any]]:
        """Yield objects; the position is the number of files that were read."""
        for number, file in enumerate(self._inventory.files):
            if number < (position or 0):
                continue
            for rows in list_inventory(self._s3, replace(self._inventory, files=(file,)), self._uri):
                yield rows, None
            yield LISTED.to_frame(), number + 1


def open_source(s3: S3, pipeline: Pipeline, now: datetime) -> SweepSource:
    """Return the objects below a pipeline's source as it says to list them.

    Raises
    ------
    InventoryError
        If an inventory is to be read, and there is none or it is too old.
    """
    kinds: dict[str, type[BucketSource | InventorySource]] = {"s3": BucketSource, "inventory": InventorySource}
    return kinds[pipeline.source.listing](s3, pipeline, now)


def _as_json(left: list[KeyRange] | None) -> list[list[str | None]] | None:
    return None if left is None else [list(keys) for keys in left]
