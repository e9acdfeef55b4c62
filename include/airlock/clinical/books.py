"""A run's books on the local disk, as audit needs them: by file and by unit to balance them, by subject to decide.

Of each book one partition at a time is in memory. A file may have more units than a partition, so its units are read in
pieces and only their sums are complete in memory.
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
    from collections.abc import Callable, Iterable, Iterator

    from airlock.pipelines import ClinicalAudit
    from airlock.storage.spool import Partitions, Spool

_ID, _UNIT = "arrival_id", list(UNIT)
_ARRIVAL = pl.Schema({name: ARRIVALS[name] for name in (_ID, "bucket", "key", "size")})
_FILE = pl.Schema({name: FILES[name] for name in (_ID, "units")})
_IDS = pl.Schema({_ID: pl.String})
_VERDICTS = schema(VERDICTS, {"copy_reason": pl.String})
# Verdicts and outcomes that are equal for a file's gate, each once in a frame, with the number of the verdict's units.
_FILE_VERDICTS = schema({name: VERDICTS[name] for name in gate.FILE_COLUMNS[0]}, {"units": pl.Int64})
_FILE_OUTCOMES = pl.Schema({name: gate.JUDGED[name] for name in gate.FILE_COLUMNS[1]})
_NAMES = schema(UNIT, {"verdict": pl.String})
# Rows that are decided on: every unit with its file, and every file without units; and the reason why its file is held.
DECIDED = schema(_VERDICTS, {name: kind for name, kind in _ARRIVAL.items() if name != "size"}, {"file_size": pl.Int64})
DECIDED_HELD = schema(DECIDED, {"file_reason": pl.String})
JUDGED_HELD = schema(gate.JUDGED, {"file_reason": pl.String})
# A text that sorts units and outcomes by file and line; a file as a whole has no line.
ORDER = pl.concat_str("key", _ID, pl.col("line").cast(pl.String).str.zfill(12).fill_null(""), separator="\x00")
_SAMPLED = 100  # every so many units, one is sampled to divide their order into ranges of equal size


@dataclass(frozen=True)
class Policy:
    """The settings and facts by which the gates are decided."""

    datastore_id: str
    settings: ClinicalAudit
    balanced: bool
    reviewed: bool
    find_doubts: Callable[[pl.Series], pl.DataFrame]  # the resources for which other runs hold patients, `gate.DOUBTS`

    def decide_patients(self, verdicts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
        """Return the gates of the patients with accepted resources."""
        books = self.datastore_id, verdicts, outcomes, self.settings
        doubts = self.find_doubts(outcomes["patient"].drop_nulls())
        return gate.decide_patients(*books, **self._settings(), doubts=doubts)

    def decide_files(self, verdicts: pl.DataFrame, outcomes: pl.DataFrame, apart: pl.Series) -> pl.DataFrame:
        """Return the gates of the files with accepted resources; *apart* are objects of parked resources."""
        return gate.decide_files(self.datastore_id, verdicts, outcomes, self.settings, **self._settings(), apart=apart)

    def _settings(self) -> dict[str, Any]:
        return {"balanced": self.balanced, "reviewed": self.reviewed}


@dataclass
class Subjects:
    """The books by subject, a patient or a file: all rows of a subject are in one partition."""

    decided: Spool
    outcomes: Spool
    gates: list[pl.DataFrame] = field(default_factory=list)  # of files
    sample: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.String))  # values of `ORDER`


class Books:
    """The datasets of the stages before audit, partitioned by file and by unit.

    Parameters
    ----------
    partitions
        Opens the spools.
    apart
        The ids of the objects in which the run has taken in parked resources, which are of many files.
    """

    def __init__(self, partitions: Partitions, apart: pl.Series = gate.NONE) -> None:
        self._partitions = partitions
        self.apart = apart
        file = pl.col(_ID)
        self.arrivals = partitions.spool(file, _ARRIVAL)
        self._files = partitions.spool(file, _FILE)
        self._held = partitions.spool(file, _IDS)
        self._verdicts = partitions.spool(file, _VERDICTS)
        self._outcomes = partitions.spool(file, gate.JUDGED)
        self._file_verdicts = partitions.spool(file, _FILE_VERDICTS)
        self._file_outcomes = partitions.spool(file, _FILE_OUTCOMES)
        self._duplicates = partitions.spool(BY_RESOURCE, VERDICTS)
        self._lost = partitions.spool(BY_RESOURCE, gate.LOST)
        self._verdict_names = partitions.spool(BY_UNIT, _NAMES)
        self._outcome_names = partitions.spool(BY_UNIT, pl.Schema(UNIT))
        self._waiting_names = partitions.spool(BY_UNIT, pl.Schema(UNIT))
        self._parked_names = partitions.spool(BY_UNIT, pl.Schema(UNIT))
        self.bytes = 0

    def add_arrivals(self, rows: pl.DataFrame) -> None:
        """Add arrivals."""
        self.arrivals.add(rows.select(_ARRIVAL.names()))
        self.bytes += int(rows["size"].sum())

    def add_files(self, rows: pl.DataFrame) -> None:
        """Add the files as parse has recorded them."""
        self._files.add(rows.select(_FILE.names()))

    def add_held(self, rows: pl.DataFrame) -> None:
        """Add ids of arrivals that the run holds in the ledger."""
        self._held.add(rows)

    def add_outcomes(self, rows: pl.DataFrame) -> None:
        """Add outcomes, as `gate.flag_uncertain` returns them."""
        self._outcomes.add(rows.select(gate.JUDGED.names()))
        self._file_outcomes.add(rows.select(gate.FILE_COLUMNS[1]).unique())
        self._outcome_names.add(rows.select(_UNIT))
        self._lost.add(gate.find_lost(rows))

    def add_parked(self, rows: pl.DataFrame) -> None:
        """Add what validate has parked (`ledger.parked.PARKED`); the name of a body is that of the unit in the run."""
        line = pl.col("body_uri").str.extract(r"-(\d+)\.json$").cast(pl.Int64)
        self._parked_names.add(rows.select(pl.col("held_as").alias(_ID), line=line))

    def add_verdicts(self, parts: Iterable[pl.DataFrame]) -> None:
        """Add all verdicts. Add all outcomes first: a duplicate has the reason of the copy that was not imported."""
        none = pl.lit(None, pl.String).alias("copy_reason")
        for rows in parts:
            self._verdict_names.add(rows.select(_NAMES.names()))
            waits = (pl.col("verdict") == Verdict.PARK) & pl.col("resource_id").is_not_null()
            self._waiting_names.add(rows.filter(waits).select(_UNIT))
            self._file_verdicts.add(rows.group_by(gate.FILE_COLUMNS[0]).agg(units=pl.len().cast(pl.Int64)))
            self._duplicates.add(rows.filter(gate.is_duplicate()))
            self._verdicts.add(rows.filter(~gate.is_duplicate()).with_columns(none))
        for rows, lost in zip_partitions(self._duplicates, self._lost):
            self._verdicts.add(gate.add_copy_reasons(rows, lost).select(_VERDICTS.names()))

    def outcomes(self) -> Spool:
        """Return the outcomes, by file."""
        return self._outcomes

    def verdicts(self) -> Spool:
        """Return the verdicts, by file."""
        return self._verdicts

    def balance(self) -> Counter[tuple[str, str, str]]:
        """Return the imbalances between the steps before the decisions, file by file and unit by unit.

        Returns
        -------
        Counter
            The number of differences by step, kind of difference and counted thing. A file that was not parsed is
            undecided, which is not an imbalance.
        """
        found: Counter[tuple[str, str, str]] = Counter()
        for number in range(self._partitions.number):
            self._balance_files(number, found)
        for verdicts, outcomes in zip_partitions(self._verdict_names, self._outcome_names):
            accepted = verdicts.filter(pl.col("verdict") == Verdict.ACCEPT)
            _count_differences(found, "verdicts", name_units(verdicts), name_units(verdicts), "units")
            _count_differences(found, "outcomes", name_units(accepted), name_units(outcomes), "units")
        for waiting, parked in zip_partitions(self._waiting_names, self._parked_names):
            _count_differences(found, "parked", name_units(waiting), name_units(parked.unique()), "units")
        return found

    def _balance_files(self, number: int, found: Counter[tuple[str, str, str]]) -> None:
        ids, files = self.arrivals.partition(number)[_ID], self._files.partition(number)
        _count_differences(found, "arrivals", ids, ids)
        _count_differences(found, "files", ids.filter(ids.is_in(files[_ID].implode())), files[_ID])
        _count_differences(found, "the ledger", ids, self._held.partition(number)[_ID])
        decided = self._file_verdicts.partition(number).group_by(_ID).agg(decided=pl.col("units").sum())
        both = files.join(decided, on=_ID, how="full", coalesce=True)
        wrong = both.filter(pl.max_horizontal("units", 1).ne_missing(pl.col("decided"))).height
        found["verdicts", "have another number of units than parse found", "files"] += wrong

    def balance_dispositions(self, units: Spool) -> Counter[tuple[str, str, str]]:
        """Return the imbalances between the dispositions and the decided units, files without a unit included."""
        found: Counter[tuple[str, str, str]] = Counter()
        expected = self._partitions.spool(BY_UNIT, pl.Schema(UNIT), self._find_decided_units())
        for names, dispositions in zip_partitions(expected, units):
            _count_differences(found, "dispositions", name_units(names), name_units(dispositions), "units")
        expected.close()
        return found

    def _find_decided_units(self) -> Iterator[pl.DataFrame]:
        for rows in self._verdict_names:
            yield rows.select(_UNIT)
        for number in range(self._partitions.number):
            yield self._find_undecided_files(number).select(_ID, line=pl.lit(None, pl.Int64))

    def _find_undecided_files(self, number: int) -> pl.DataFrame:
        """Return the files of a partition without a verdict."""
        return self.arrivals.partition(number).join(self._file_verdicts.partition(number), on=_ID, how="anti")

    def add_keys(self, frames: Iterable[pl.DataFrame], partitions: Partitions) -> Iterator[pl.DataFrame]:
        """Yield rows of OperationOutcomes with the ``key`` of their file, part by part in the order of `ORDER`."""
        file, keyed = pl.col(_ID), schema(OPERATION_OUTCOMES, {"key": pl.String})
        found = self._partitions.spool(file, OPERATION_OUTCOMES, frames)
        sample, rows = pl.Series([], dtype=pl.String), partitions.spool(file, keyed)
        for number in range(self._partitions.number):
            keys = self.arrivals.partition(number).select(_ID, "key").unique(_ID)
            for piece in found.pieces(number):
                known = piece.join(keys, on=_ID, maintain_order="left")
                rows.add(known.select(keyed.names()))
                sample.append(_sample_order(known))
        yield from partitions.sorted_spool(ORDER, sample, keyed, rows)

    def regroup_by_subject(self, policy: Policy, partitions: Partitions) -> Subjects:
        """Return the rows to decide on by subject, and the gates of the files."""
        subject = gate.subject()
        found = Subjects(partitions.spool(subject, DECIDED_HELD), partitions.spool(subject, JUDGED_HELD))
        for number in range(self._partitions.number):
            arrivals = self.arrivals.partition(number).rename({"size": "file_size"}).unique(_ID)
            of_files = self._file_verdicts.partition(number), self._file_outcomes.partition(number)
            gates = policy.decide_files(*of_files, self.apart)
            found.gates.append(gates)
            held = gate.find_held_files(gates)
            open_files = self._find_undecided_files(number).select(_ID)
            for units in (*self._verdicts.pieces(number), _VERDICTS.to_frame(), _as_verdicts(open_files)):
                rows = units.join(arrivals, on=_ID, how="left", maintain_order="left")
                rows = rows.join(held, on=_ID, how="left", maintain_order="left").select(DECIDED_HELD.names())
                found.decided.add(rows)
                found.sample.append(_sample_order(rows))
            for outcomes in self._outcomes.pieces(number):
                rows = outcomes.join(held, on=_ID, how="left", maintain_order="left")
                found.outcomes.add(rows.select(JUDGED_HELD.names()))
        return found


def _sample_order(rows: pl.DataFrame) -> pl.Series:
    return rows.gather_every(_SAMPLED).select(ORDER.alias("order"))["order"]


def _as_verdicts(files: pl.DataFrame) -> pl.DataFrame:
    """Return files without a verdict as rows of verdicts with the arrival's id alone."""
    return pl.concat([_VERDICTS.to_frame(), files], how="diagonal")


def name_units(units: pl.DataFrame) -> pl.Series:
    """Return the name of each unit: its file and line."""
    return units.select(BY_UNIT.alias("unit"))["unit"]


def _count_differences(
    found: Counter[tuple[str, str, str]], step: str, expected: pl.Series, actual: pl.Series, counted: str = "arrivals"
) -> None:
    differences = compare_ids(expected, actual)
    found.update({(step, difference, counted): number for difference, number in differences.items()})


_STEPS = ("arrivals", "files", "verdicts", "parked", "outcomes", "dispositions", "the ledger")


def list_imbalances(found: Counter[tuple[str, str, str]]) -> list[str]:
    """Return a sentence per imbalance, in the order of the steps, without identifiers."""
    named = sorted((item for item in found.items() if item[1]), key=lambda item: _STEPS.index(item[0][0]))
    return [f"{step}: {number} {counted} {difference}" for (step, difference, counted), number in named]
