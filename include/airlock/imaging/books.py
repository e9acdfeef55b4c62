"""A run's books on the local disk, as audit needs them: by arrival to balance them, by study to decide.

Of each book one partition at a time is in memory, so that an audit's memory does not grow with the delivery.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.report import imbalances
from airlock.records import OUTCOMES, STUDIES, VERDICTS
from airlock.storage.spool import SortedSpool, Spool, bounds_of, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What audit needs of an arrival and of the verdict on it.
ARRIVAL = ("arrival_id", "key", "size")
DECIDED = (
    *ARRIVAL,
    *("verdict", "reason", "detail", "duplicate_of", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    *("StudyDate", "AccessionNumber", "PatientID", "IssuerOfPatientID", "StudyID", "SeriesNumber", "NumberOfFrames"),
)
_VERDICT = ("arrival_id", "verdict")
_SERIES = ("SeriesInstanceUID", "batch_id")
_ID, _STUDY = "arrival_id", "StudyInstanceUID"
_SAMPLED = 100  # one key in so many says how the keys are spread


class Books:
    """What the stages have written; `open_books` opens them.

    By arrival there are the ids that each step has; by study what is decided on, each study whole in its partition.
    Arrivals without a study are spread, since they have nothing to do with each other.
    """

    def __init__(self, partitions: int, stack: ExitStack) -> None:
        self._partitions = partitions
        self._stack = stack
        decided, arrival, study = pl.Schema({name: VERDICTS[name] for name in DECIDED}), pl.col(_ID), pl.col(_STUDY)
        by_study = pl.when(study != "").then(study).otherwise(arrival)
        self.arrivals = self.spool(arrival, _some(decided, ARRIVAL))
        self.verdict_ids = self.spool(arrival, _some(decided, _VERDICT))
        self.outcome_ids = self.spool(arrival, _some(decided, [_ID, _STUDY]))
        self.held_ids = self.spool(arrival, _some(decided, [_ID]))
        self.decided = self.spool(by_study, decided)  # every arrival, those without a verdict too
        self.outcomes = self.spool(by_study, OUTCOMES)
        self.drafts = self.spool(study, STUDIES)
        self.series = self.spool(pl.col("SeriesInstanceUID"), _some(OUTCOMES, _SERIES))
        self.bytes = 0  # of the arrivals
        self.strangers = pl.Series([], dtype=pl.String)  # ids that have a verdict and are no arrivals
        self._keys = pl.Series([], dtype=pl.String)  # some of them

    def spool(self, by: pl.Expr, schema: pl.Schema) -> Spool:
        """Return a spool of as many partitions, which is gone with the books."""
        spool = self._stack.enter_context(Spool(by, self._partitions))
        spool.add(schema.to_frame())
        return spool

    def spool_by_key(self, schema: pl.Schema) -> SortedSpool:
        """Return such a spool for rows with the arrivals' keys, in their order."""
        spool = self._stack.enter_context(SortedSpool("key", bounds_of(self._keys, self._partitions)))
        spool.add(schema.to_frame())
        return spool

    def add_arrivals(self, rows: pl.DataFrame) -> None:
        """Take in arrivals."""
        self.arrivals.add(rows.select(ARRIVAL))
        self.bytes += int(rows["size"].sum())
        self._keys.append(rows["key"].gather_every(_SAMPLED))

    def add_verdicts(self, rows: pl.DataFrame) -> None:
        """Take in verdicts."""
        self.verdict_ids.add(rows.select(_VERDICT))
        self.decided.add(rows.select(DECIDED))

    def add_outcomes(self, rows: pl.DataFrame) -> None:
        """Take in the outcomes of a batch."""
        self.outcome_ids.add(rows.select(_ID, _STUDY))
        self.outcomes.add(rows)
        self.series.add(rows.select(_SERIES).unique(maintain_order=True))

    def balance(self) -> Counter[tuple[str, str]]:
        """Hold the steps against each other, as `report.imbalances`, when all is taken in.

        Arrivals without a verdict come to what is decided on then.
        """
        found: Counter[tuple[str, str]] = Counter()
        strangers: list[pl.Series] = []
        undecided = {name: pl.lit(None, VERDICTS[name]) for name in DECIDED if name not in (*ARRIVAL, _STUDY)}
        books = (self.arrivals, self.verdict_ids, self.outcome_ids, self.held_ids)
        for arrivals, verdicts, outcomes, held in together(*books):
            part = {"arrivals": arrivals, "verdicts": verdicts, "outcomes": outcomes, "held": held}
            found.update(imbalances(part))
            strangers.append(verdicts.join(arrivals, on=_ID, how="anti")[_ID])
            unknown = arrivals.join(verdicts, on=_ID, how="anti")
            # Beside its outcome, where it has one: what is in the store is not "failed".
            unknown = unknown.join(outcomes.unique(_ID, keep="first"), on=_ID, how="left", maintain_order="left")
            self.decided.add(unknown.with_columns(**undecided).select(DECIDED))
        self.strangers = pl.concat(strangers)
        return found

    def balance_words(self, words: Spool) -> Counter[tuple[str, str]]:
        """Hold the dispositions' ids, partitioned as the arrivals are, against the arrivals."""
        found: Counter[tuple[str, str]] = Counter()
        for arrivals, dispositions in together(self.arrivals, words):
            found.update(imbalances({"arrivals": arrivals, "dispositions": dispositions}))
        return found

    def split_series(self) -> pl.Series:
        """Return the SeriesInstanceUIDs of the series that more than one batch brings."""
        counted = (
            part.group_by("SeriesInstanceUID").agg(pl.col("batch_id").n_unique()).filter(pl.col("batch_id") > 1)
            for part in self.series
        )
        found = [part["SeriesInstanceUID"] for part in counted]
        return pl.concat([pl.Series([], dtype=pl.String), *found])


def _some(schema: pl.Schema, names: Iterable[str]) -> pl.Schema:
    return pl.Schema({name: schema[name] for name in names})


@contextmanager
def open_books(partitions: int) -> Iterator[Books]:
    """Open empty books of so many partitions; they are gone when the block ends."""
    with ExitStack() as stack:
        yield Books(partitions, stack)
