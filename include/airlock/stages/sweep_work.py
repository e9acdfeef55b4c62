"""A sweep that is under way, what it has counted, and its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.stages.sites import CountedSites, first_folder
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.ledger.comparisons import Comparison
    from airlock.pipelines import Pipeline
    from airlock.stages.census import Census
    from airlock.stages.sweep_files import SweepFiles
    from airlock.stages.sweep_source import SweepSource
    from airlock.storage.s3 import S3

YOUNG, OVERDUE, VANISHED = "young", "overdue", "vanished"


@dataclass
class Counts:
    """What a sweep has counted up to its position."""

    listed: int = 0
    owed: int = 0  # not arrivals, but runs try to take them
    sites: dict[str, dict[str, int]] = field(default_factory=dict)  # young, overdue and vanished
    requests: dict[str, int] = field(default_factory=dict)  # by operation
    census: Census = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)  # files other than images, by the ends of their names
    asked: dict[str, Any] | None = None  # at the end, an `Asked`

    def add(self, kind: str, rows: pl.DataFrame) -> None:
        """Count rows by their column ``site``."""
        for site, number in rows.group_by("site").len().sort("site").iter_rows():
            of_site = self.sites.setdefault(site, dict.fromkeys((YOUNG, OVERDUE, VANISHED), 0))
            of_site[kind] += number

    def total(self, kind: str) -> int:
        """Return the sum of all sites."""
        return sum(of_site[kind] for of_site in self.sites.values())


@dataclass(frozen=True)
class Asked:
    """The overdue objects that a sweep does not take in by itself: all of them, or those below new folders."""

    everything: bool = False
    folders: tuple[str, ...] = ()
    number: int = 0

    def choose(self, source: S3Uri) -> pl.Expr:
        """Return whether an object is one of them, by its ``key``."""
        if self.everything:
            return pl.lit(value=True)
        return first_folder(source).is_in(pl.lit(pl.Series(self.folders, dtype=pl.String)).implode())

    def as_json(self) -> dict[str, Any]:
        """Return it for the ledger, from which `read_asked` reads it."""
        return asdict(self)


def read_asked(content: dict[str, Any] | None) -> Asked:
    """Return what `Asked.as_json` returned; nothing if the sweep has not ended."""
    return Asked() if content is None else Asked(**(content | {"folders": tuple(content["folders"])}))


@dataclass
class Sweeping:
    """A sweep that is under way."""

    pipeline: Pipeline
    s3: S3
    ledger: Ledger
    source: SweepSource
    comparison: Comparison
    files: SweepFiles
    counts: Counts

    @property
    def prefix(self) -> S3Uri:
        """The source."""
        return S3Uri.parse(self.pipeline.source.uri)

    @cached_property
    def sites(self) -> CountedSites:
        """The sites by which objects are counted."""
        return CountedSites(self.pipeline.source, self.counts.sites)

    def overdue(self) -> Iterator[pl.DataFrame]:
        """Yield the overdue objects, as `ledger.arrivals.LISTED`."""
        return self.files.read(OVERDUE)


@dataclass(frozen=True)
class Swept:
    """The result of a sweep."""

    number: int
    caution: str | None  # why nothing was taken in, in words
    counts: Counts
    taken_in: int  # of the overdue objects; a person decides on the others
    report_uri: str
    report: dict[str, Any]

    @property
    def overdue(self) -> int:
        """The number of overdue objects."""
        return self.counts.total(OVERDUE)

    @property
    def asks(self) -> int:
        """The number of overdue objects about which a person decides."""
        return self.overdue - self.taken_in
