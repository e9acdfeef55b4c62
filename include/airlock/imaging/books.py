"""A run's books on the local disk, as audit needs them: by arrival to balance them, by study to decide.

Of each book one partition at a time is in memory, so that an audit's memory does not grow with the delivery.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.declarations import DECLARED
from airlock.imaging.report import imbalances
from airlock.ledger.folders import FOLDERS, MOST_OF_A_FOLDER
from airlock.reasons import Reason
from airlock.records import OUTCOMES, STUDIES, VERDICTS, Verdict
from airlock.storage.spool import SortedSpool, Spool, compute_bounds, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The columns of an arrival and of its verdict that audit needs.
ARRIVAL = ("arrival_id", "key", "size")
DECIDED = (
    *ARRIVAL,
    *("verdict", "reason", "detail", "duplicate_of", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    *("StudyDate", "AccessionNumber", "PatientID", "IssuerOfPatientID", "StudyID", "SeriesNumber", "NumberOfFrames"),
)
_VERDICT = ("arrival_id", "verdict")
_SERIES = ("SeriesInstanceUID", "batch_id")
_ID, _STUDY = "arrival_id", "StudyInstanceUID"
_FOLDER = "folder"
UNREAD = pl.Schema({_ID: pl.String, "key": pl.String, "reason": pl.String})
DIRECTORIES = pl.Schema({_FOLDER: pl.String, "key": pl.String, "size": pl.Int64})
ATTRIBUTED = pl.Schema(
    {
        _ID: pl.String,
        _STUDY: pl.String,
        "code": pl.String,  # the Reason that holds the study
        "by": pl.String,  # how the study was found
    }
)
_EXTENSION = r"\.[a-z][a-z0-9]{0,4}$"
_NUMBERS = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}|[0-9]+(?:[._-]?[0-9]+)*"
# The files by which a folder names studies, and the files that have one.
ACCEPTED = pl.col("verdict").is_in([Verdict.ACCEPT.value, Verdict.DUPLICATE.value])
_HAS_STUDY = pl.col(_STUDY).fill_null("") != ""
_SAMPLED = 100  # every so many keys, one is sampled to divide their order into ranges of equal size


class Books:
    """The datasets of a run's stages in partitions on the local disk; `open_books` opens them.

    Partitions by arrival hold the ids that each step has. Partitions by study hold the rows that are decided on, with
    whole studies. Arrivals without a study are spread over the partitions.
    """

    def __init__(self, partitions: int, stack: ExitStack) -> None:
        self._partitions = partitions
        self._stack = stack
        decided, arrival, study = pl.Schema({name: VERDICTS[name] for name in DECIDED}), pl.col(_ID), pl.col(_STUDY)
        by_study = pl.when(study != "").then(study).otherwise(arrival)
        self.arrivals = self.spool(arrival, _select_columns(decided, ARRIVAL))
        self.verdict_ids = self.spool(arrival, _select_columns(decided, _VERDICT))
        self.outcome_ids = self.spool(arrival, _select_columns(decided, [_ID, _STUDY]))
        self.held_ids = self.spool(arrival, _select_columns(decided, [_ID]))
        self.decided = self.spool(by_study, decided)  # every arrival, with or without a verdict
        self.outcomes = self.spool(by_study, OUTCOMES)
        self.drafts = self.spool(study, STUDIES)
        self.declared = self.spool(study, DECLARED)
        self.series = self.spool(pl.col("SeriesInstanceUID"), _select_columns(OUTCOMES, _SERIES))
        self.unread = self.spool(arrival, UNREAD)
        self.folders = self.spool(pl.col("folder"), FOLDERS)  # of the accepted files
        self.directories = self.spool(pl.col(_FOLDER), DIRECTORIES)
        self.unread_by_file = self.spool(arrival, ATTRIBUTED)  # `unread.attribute` adds to these
        self.unread_by_study = self.spool(study, ATTRIBUTED)
        self.unattributed: Counter[str] = Counter()  # unread files without a study, by site
        self.bytes = 0  # of the arrivals
        self.unknown_ids = pl.Series([], dtype=pl.String)  # of verdicts without an arrival
        self._keys = pl.Series([], dtype=pl.String)  # a sample

    def spool(self, by: pl.Expr, schema: pl.Schema) -> Spool:
        """Return a spool with the books' number of partitions; it is deleted with the books."""
        spool = self._stack.enter_context(Spool(by, self._partitions))
        spool.add(schema.to_frame())
        return spool

    def spool_by_key(self, schema: pl.Schema) -> SortedSpool:
        """Return a spool of rows that have an arrival's key, in the order of the keys."""
        spool = self._stack.enter_context(SortedSpool(pl.col("key"), compute_bounds(self._keys, self._partitions)))
        spool.add(schema.to_frame())
        return spool

    def add_arrivals(self, rows: pl.DataFrame) -> None:
        """Add arrivals."""
        self.arrivals.add(rows.select(ARRIVAL))
        self.bytes += int(rows["size"].sum())
        self._keys.append(rows["key"].gather_every(_SAMPLED))

    def add_verdicts(self, rows: pl.DataFrame) -> None:
        """Add verdicts."""
        self.verdict_ids.add(rows.select(_VERDICT))
        self.decided.add(rows.select(DECIDED))
        self.unread.add(find_unread(rows))
        self.directories.add(_find_directories(rows))
        self.folders.add(find_folders(rows, MOST_OF_A_FOLDER))

    def add_outcomes(self, rows: pl.DataFrame) -> None:
        """Add the outcomes of a batch."""
        self.outcome_ids.add(rows.select(_ID, _STUDY))
        self.outcomes.add(rows)
        self.series.add(rows.select(_SERIES).unique(maintain_order=True))

    def balance(self) -> Counter[tuple[str, str]]:
        """Return the imbalances between the steps (`report.imbalances`). Add all datasets first.

        Adds the arrivals without a verdict to the rows that are decided on.
        """
        found: Counter[tuple[str, str]] = Counter()
        unknown_ids: list[pl.Series] = []
        undecided = {name: pl.lit(None, VERDICTS[name]) for name in DECIDED if name not in (*ARRIVAL, _STUDY)}
        books = (self.arrivals, self.verdict_ids, self.outcome_ids, self.held_ids)
        for arrivals, verdicts, outcomes, held in zip_partitions(*books):
            part = {"arrivals": arrivals, "verdicts": verdicts, "outcomes": outcomes, "held": held}
            found.update(imbalances(part))
            unknown_ids.append(verdicts.join(arrivals, on=_ID, how="anti")[_ID])
            unknown = arrivals.join(verdicts, on=_ID, how="anti")
            # The study of an outcome is kept: an imported file without a verdict must not become "failed".
            unknown = unknown.join(outcomes.unique(_ID, keep="first"), on=_ID, how="left", maintain_order="left")
            self.decided.add(unknown.with_columns(**undecided).select(DECIDED))
        self.unknown_ids = pl.concat(unknown_ids)
        return found

    def split_series(self) -> pl.Series:
        """Return the SeriesInstanceUIDs of the series that more than one batch brings."""
        counted = (
            part.group_by("SeriesInstanceUID").agg(pl.col("batch_id").n_unique()).filter(pl.col("batch_id") > 1)
            for part in self.series
        )
        found = [part["SeriesInstanceUID"] for part in counted]
        return pl.concat([pl.Series([], dtype=pl.String), *found])


def find_unread(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Return the quarantined files of which no StudyInstanceUID was read, as `UNREAD`."""
    quarantined = pl.col("verdict") == Verdict.QUARANTINE
    return verdicts.filter(quarantined & ~_HAS_STUDY).select(UNREAD.names())


def _find_directories(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Return the media directories with their folders, as `DIRECTORIES`."""
    found = verdicts.filter((pl.col("verdict") == Verdict.IGNORE) & (pl.col("reason") == Reason.DICOMDIR))
    return found.select(_get_folder(), "key", "size")


def _get_folder() -> pl.Expr:
    return pl.col("key").str.replace("[^/]*$", "").alias(_FOLDER)


def find_folders(verdicts: pl.DataFrame, most: int) -> pl.DataFrame:
    """Return the folders of accepted files with their studies, as `FOLDERS`; of one folder at most so many studies."""
    accepted = verdicts.lazy().filter(ACCEPTED & _HAS_STUDY)
    pairs = accepted.select(_get_folder(), _STUDY, "key").unique([_FOLDER, _STUDY], keep="any")
    named = pairs.group_by(_FOLDER).head(most).with_columns(pattern=name_pattern())
    return named.select(FOLDERS.names()).collect()


def name_pattern() -> pl.Expr:
    """Return the pattern of an object's name: its extension or, without one, its letters around numbers."""
    name = pl.col("key").str.extract("([^/]*)/?$").str.to_lowercase()
    return pl.coalesce(name.str.extract(f"({_EXTENSION})"), name.str.replace_all(_NUMBERS, "9"))


def _select_columns(schema: pl.Schema, names: Iterable[str]) -> pl.Schema:
    return pl.Schema({name: schema[name] for name in names})


@contextmanager
def open_books(partitions: int) -> Iterator[Books]:
    """Open empty books with this number of partitions; they are deleted when the block ends."""
    with ExitStack() as stack:
        yield Books(partitions, stack)
