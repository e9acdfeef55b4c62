"""A run's books on the local disk, as audit needs them: by file and by unit to balance them, by subject to decide.

Of each book one partition at a time is in memory. A file may have more units than a partition: they are taken up piece
by piece, and only what is summed up of a file is whole.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical import gate
from airlock.clinical.records import OPERATION_OUTCOMES, VERDICTS
from airlock.records import ARRIVALS, Verdict, schema
from airlock.stages.reporting import compare_ids
from airlock.stages.resources import BY_RESOURCE, BY_UNIT, FILES, UNIT
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import ClinicalAudit
    from airlock.storage.spool import Partitions, Spool

_ID, _UNIT = "arrival_id", list(UNIT)
_ARRIVAL = pl.Schema({name: ARRIVALS[name] for name in (_ID, "bucket", "key", "size")})
_FILE = pl.Schema({name: FILES[name] for name in (_ID, "units")})
_IDS = pl.Schema({_ID: pl.String})
_VERDICTS = schema(VERDICTS, {"copy_reason": pl.String})
_NAMES = schema(UNIT, {"verdict": pl.String})
# What is decided on: every unit with its file, and every file that has none; and why its file is held.
DECIDED = schema(_VERDICTS, {name: kind for name, kind in _ARRIVAL.items() if name != "size"}, {"file_size": pl.Int64})
DECIDED_HELD = schema(DECIDED, {"file_reason": pl.String})
JUDGED_HELD = schema(gate.JUDGED, {"file_reason": pl.String})
# Units and outcomes in the order of files and lines, as a text; a file as a whole has no line.
ORDER = pl.concat_str("key", _ID, pl.col("line").cast(pl.String).str.zfill(12).fill_null(""), separator="\x00")
_SAMPLED = 100  # one unit in so many says how their order is spread


@dataclass(frozen=True)
class Policy:
    """By what the gates are decided."""

    datastore_id: str
    settings: ClinicalAudit
    balanced: bool
    reviewed: bool

    def decide(self, verdicts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
        """Return the gates of the patients."""
        return gate.decide(self.datastore_id, verdicts, outcomes, self.settings, **self._state())

    def decide_files(self, verdicts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
        """Return the gates of the files."""
        return gate.decide_files(self.datastore_id, verdicts, outcomes, self.settings, **self._state())

    def _state(self) -> dict[str, Any]:
        return {"balanced": self.balanced, "reviewed": self.reviewed}


@dataclass
class Subjects:
    """The books by patient, or by file for what belongs to none: each subject is whole in its partition."""

    decided: Spool
    outcomes: Spool
    gates: list[pl.DataFrame] = field(default_factory=list)  # of files
    sample: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.String))  # of `ORDER`


class Books:
    """What the stages have written."""

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        file = pl.col(_ID)
        self.arrivals = partitions.spool(file, _ARRIVAL)
        self._files = partitions.spool(file, _FILE)
        self._held = partitions.spool(file, _IDS)
        self._verdicts = partitions.spool(file, _VERDICTS)
        self._outcomes = partitions.spool(file, gate.JUDGED)
        self._duplicates = partitions.spool(BY_RESOURCE, VERDICTS)
        self._lost = partitions.spool(BY_RESOURCE, gate.LOST)
        self._verdict_names = partitions.spool(BY_UNIT, _NAMES)
        self._outcome_names = partitions.spool(BY_UNIT, pl.Schema(UNIT))
        self.bytes = 0

    def add_arrivals(self, rows: pl.DataFrame) -> None:
        """Take in arrivals."""
        self.arrivals.add(rows.select(_ARRIVAL.names()))
        self.bytes += int(rows["size"].sum())

    def add_files(self, rows: pl.DataFrame) -> None:
        """Take in what parse has found of files."""
        self._files.add(rows.select(_FILE.names()))

    def add_held(self, rows: pl.DataFrame) -> None:
        """Take in ids of arrivals that the ledger says the run holds."""
        self._held.add(rows)

    def add_outcomes(self, rows: pl.DataFrame) -> None:
        """Take in outcomes, as `gate.doubt` returns them."""
        self._outcomes.add(rows.select(gate.JUDGED.names()))
        self._outcome_names.add(rows.select(_UNIT))
        self._lost.add(gate.lost(rows))

    def add_verdicts(self, parts: Iterable[pl.DataFrame]) -> None:
        """Take in all verdicts; the outcomes must be in, whose fate duplicates share."""
        none = pl.lit(None, pl.String).alias("copy_reason")
        for rows in parts:
            self._verdict_names.add(rows.select(_NAMES.names()))
            self._duplicates.add(rows.filter(gate.is_duplicate()))
            self._verdicts.add(rows.filter(~gate.is_duplicate()).with_columns(none))
        for rows, lost in zip_partitions(self._duplicates, self._lost):
            self._verdicts.add(gate.with_copy_reasons(rows, lost).select(_VERDICTS.names()))

    def balance(self) -> Counter[tuple[str, str, str]]:
        """Hold the steps before the decisions against each other: conservation, file by file and unit by unit.

        Returns
        -------
        Counter
            How many are wrong, by the step, in words, and of what. A file that was not parsed yet is open, which is no
            imbalance.
        """
        found: Counter[tuple[str, str, str]] = Counter()
        for number in range(self._partitions.number):
            self._balance_files(number, found)
        for verdicts, outcomes in zip_partitions(self._verdict_names, self._outcome_names):
            accepted = verdicts.filter(pl.col("verdict") == Verdict.ACCEPT)
            _compare(found, "verdicts", name_units(verdicts), name_units(verdicts), "units")
            _compare(found, "outcomes", name_units(accepted), name_units(outcomes), "units")
        return found

    def _balance_files(self, number: int, found: Counter[tuple[str, str, str]]) -> None:
        ids, files = self.arrivals.partition(number)[_ID], self._files.partition(number)
        _compare(found, "arrivals", ids, ids)
        _compare(found, "files", ids.filter(ids.is_in(files[_ID].implode())), files[_ID])
        _compare(found, "the ledger", ids, self._held.partition(number)[_ID])
        counts = [pl.DataFrame(schema={_ID: pl.String, "decided": pl.UInt32})]
        counts += [piece.group_by(_ID).agg(decided=pl.len()) for piece in self._verdicts.pieces(number)]
        decided = pl.concat(counts).group_by(_ID).agg(pl.col("decided").sum())
        both = files.join(decided, on=_ID, how="full", coalesce=True)
        wrong = both.filter(pl.max_horizontal("units", 1).ne_missing(pl.col("decided"))).height
        found["verdicts", "have another number of units than parse found", "files"] += wrong

    def balance_words(self, words: Spool) -> Counter[tuple[str, str, str]]:
        """Hold the dispositions against the units and the files without one."""
        found: Counter[tuple[str, str, str]] = Counter()
        expected = self._partitions.spool(BY_UNIT, pl.Schema(UNIT), self._decided_names())
        for names, dispositions in zip_partitions(expected, words):
            _compare(found, "dispositions", name_units(names), name_units(dispositions), "units")
        expected.close()
        return found

    def _decided_names(self) -> Iterator[pl.DataFrame]:
        for rows in self._verdict_names:
            yield rows.select(_UNIT)
        for number in range(self._partitions.number):
            yield self._open_files(number).select(_ID, line=pl.lit(None, pl.Int64))

    def _open_files(self, number: int) -> pl.DataFrame:
        """Return the files of a partition on which nothing was decided."""
        ids = [_IDS.to_frame(), *(piece.select(_ID).unique() for piece in self._verdicts.pieces(number))]
        return self.arrivals.partition(number).join(pl.concat(ids), on=_ID, how="anti")

    def with_keys(self, frames: Iterable[pl.DataFrame], partitions: Partitions) -> Iterator[pl.DataFrame]:
        """Yield rows of OperationOutcomes with their files' ``key``, part by part in the order of files and lines."""
        file, keyed = pl.col(_ID), schema(OPERATION_OUTCOMES, {"key": pl.String, "order": pl.String})
        found = self._partitions.spool(file, OPERATION_OUTCOMES, frames)
        sample, rows = pl.Series([], dtype=pl.String), partitions.spool(file, keyed)
        for number in range(self._partitions.number):
            keys = self.arrivals.partition(number).select(_ID, "key").unique(_ID)
            for piece in found.pieces(number):
                known = piece.join(keys, on=_ID, maintain_order="left").with_columns(order=ORDER)
                rows.add(known.select(keyed.names()))
                sample.append(known["order"].gather_every(_SAMPLED))
        yield from partitions.sorted_spool("order", sample, keyed, rows)

    def by_subject(self, policy: Policy, partitions: Partitions) -> Subjects:
        """Return the books by subject, with the gates of the files."""
        subject = gate.subject()
        found = Subjects(partitions.spool(subject, DECIDED_HELD), partitions.spool(subject, JUDGED_HELD))
        for number in range(self._partitions.number):
            arrivals = self.arrivals.partition(number).rename({"size": "file_size"}).unique(_ID)
            gates = policy.decide_files(
                _condensed(self._verdicts.pieces(number), VERDICTS, gate.OF_FILES[0]),
                _condensed(self._outcomes.pieces(number), gate.JUDGED, gate.OF_FILES[1]),
            )
            found.gates.append(gates)
            held = gate.held_files(gates)
            open_files = self._open_files(number).select(_ID)
            for units in (*self._verdicts.pieces(number), _VERDICTS.to_frame(), _undecided(open_files)):
                rows = units.join(arrivals, on=_ID, how="left", maintain_order="left")
                rows = rows.join(held, on=_ID, how="left", maintain_order="left").select(DECIDED_HELD.names())
                found.decided.add(rows)
                found.sample.append(rows.select(ORDER.alias("order"))["order"].gather_every(_SAMPLED))
            for outcomes in self._outcomes.pieces(number):
                rows = outcomes.join(held, on=_ID, how="left", maintain_order="left")
                found.outcomes.add(rows.select(JUDGED_HELD.names()))
        return found


def _undecided(files: pl.DataFrame) -> pl.DataFrame:
    """Return files without a verdict as units."""
    return pl.concat([_VERDICTS.to_frame(), files], how="diagonal")


def _condensed(pieces: Iterable[pl.DataFrame], kinds: pl.Schema, columns: tuple[str, ...]) -> pl.DataFrame:
    """Return these columns of all pieces; equal rows count as one."""
    none = pl.DataFrame(schema={name: kinds[name] for name in columns})
    return pl.concat([none, *(piece.select(columns).unique() for piece in pieces)]).unique()


def name_units(units: pl.DataFrame) -> pl.Series:
    """Name each unit by its file and line."""
    return units.select(BY_UNIT.alias("unit"))["unit"]


def _compare(
    found: Counter[tuple[str, str, str]], step: str, expected: pl.Series, actual: pl.Series, counted: str = "arrivals"
) -> None:
    found.update({(step, what, counted): number for what, number in compare_ids(expected, actual).items()})


_STEPS = ("arrivals", "files", "verdicts", "outcomes", "dispositions", "the ledger")


def describe(found: Counter[tuple[str, str, str]]) -> list[str]:
    """Return a sentence per imbalance, in the order of the steps, without identifiers."""
    named = sorted((item for item in found.items() if item[1]), key=lambda item: _STEPS.index(item[0][0]))
    return [f"{step}: {number} {counted} {what}" for (step, what, counted), number in named]
