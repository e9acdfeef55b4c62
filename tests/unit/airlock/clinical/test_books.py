"""A run's books balance if every unit of every file is in exactly one place at each step."""

from __future__ import annotations

import polars as pl
import pytest

from airlock.clinical.books import Books, list_imbalances
from airlock.clinical.gate import flag_uncertain
from airlock.ledger.parked import PARKED
from airlock.records import ARRIVALS
from airlock.stages.resources import BY_UNIT, DISPOSITIONS, FILES, UNIT
from airlock.storage.spool import PARTITION_ROWS, Partitions
from tests.unit.airlock.clinical.books import outcomes, unit, verdicts
from tests.unit.airlock.world import frame

P1, O2 = unit("Patient/p1"), unit("Observation/o2")
LINE = {"arrival_id": "a", "line": 3, "verdict": "quarantine", "reason": "not_json"}
EMPTY = {"arrival_id": "e", "line": None, "verdict": "quarantine", "reason": "empty_object"}
ARRIVED = frame([{"arrival_id": name, "key": f"in/{name}", "size": 1000} for name in ("a", "e")], ARRIVALS)
MISCOUNTED = "verdicts: 1 files have another number of units than parse found"


def rows_of_books(**changes: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the books of a run with three units in one file and none in another."""
    whole = {
        "arrivals": ARRIVED,
        "files": frame([{"arrival_id": "a", "units": 3}, {"arrival_id": "e", "units": 0}], FILES),
        "verdicts": verdicts(P1, O2, LINE, EMPTY),
        "outcomes": outcomes(P1, O2),
        "dispositions": frame([P1, O2, LINE, EMPTY], DISPOSITIONS),
        "held": ARRIVED,
        "parked": PARKED.to_frame(),
    }
    return whole | changes


def imbalances(rows: dict[str, pl.DataFrame]) -> list[str]:
    """Return the imbalances of these rows, in three partitions."""
    with Partitions(3 * PARTITION_ROWS) as partitions:
        books = Books(partitions)
        books.add_arrivals(rows["arrivals"])
        books.add_files(rows["files"])
        books.add_held(rows["held"].select("arrival_id"))
        books.add_outcomes(flag_uncertain(rows["outcomes"], []))
        books.add_verdicts([rows["verdicts"]])
        books.add_parked(rows["parked"])
        found = books.balance()
        found += books.balance_dispositions(partitions.spool(BY_UNIT, pl.Schema(UNIT), [rows["dispositions"]]))
    return list_imbalances(found)


def twice(frame_: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([frame_, frame_[:1]])


class TestImbalances:
    def test_there_are_none_if_every_unit_is_counted_once(self) -> None:
        assert imbalances(rows_of_books()) == []
        empty = {name: rows.clear() for name, rows in rows_of_books().items()}
        assert imbalances(empty) == []

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"verdicts": verdicts(P1, LINE, EMPTY)}, MISCOUNTED),
            ({"verdicts": twice(verdicts(P1, O2, EMPTY))}, "verdicts: 1 units occur more than once"),
            ({"verdicts": verdicts(P1, O2, LINE)}, MISCOUNTED),
            ({"outcomes": outcomes(P1)}, "outcomes: 1 units are missing"),
            ({"outcomes": outcomes(P1, O2, LINE)}, "outcomes: 1 units do not belong there"),
            ({"outcomes": outcomes(P1, O2, O2)}, "outcomes: 1 units occur more than once"),
            ({"dispositions": frame([P1, O2, LINE], DISPOSITIONS)}, "dispositions: 1 units are missing"),
            ({"dispositions": twice(rows_of_books()["dispositions"])}, "dispositions: 1 units occur more than once"),
            ({"held": ARRIVED[:1]}, "the ledger: 1 arrivals are missing"),
            ({"arrivals": twice(ARRIVED)}, "arrivals: 1 arrivals occur more than once"),
            ({"files": twice(rows_of_books()["files"])}, "files: 1 arrivals occur more than once"),
            ({"files": frame([{"arrival_id": "x", "units": 1}], FILES)}, "files: 1 arrivals do not belong there"),
        ],
    )  # fmt: skip
    def test_each_is_named(self, changes: dict[str, pl.DataFrame], problem: str) -> None:
        assert problem in imbalances(rows_of_books(**changes))

    def test_what_waits_is_among_what_validate_has_parked_however_much_it_waits_for(self) -> None:
        waits = {"verdict": "park"}
        decided = verdicts(P1, O2 | waits, LINE, EMPTY | waits)
        of_unit, of_other = ({"held_as": "a", "body_uri": f"s3://work/parked/a-{line}.json"} for line in (2, 7))
        changes = {"verdicts": decided, "outcomes": outcomes(P1)}
        assert imbalances(rows_of_books(**changes, parked=frame([of_unit, of_unit], PARKED))) == []
        assert imbalances(rows_of_books(**changes)) == ["parked: 1 units are missing"]
        assert imbalances(rows_of_books(parked=frame([of_other], PARKED))) == ["parked: 1 units do not belong there"]

    def test_a_file_that_was_not_parsed_is_not_an_imbalance(self) -> None:
        units = (P1, O2, LINE)
        found = rows_of_books(
            files=rows_of_books()["files"][:1],
            verdicts=verdicts(*units),
            dispositions=frame([*units, {"arrival_id": "e", "line": None}], DISPOSITIONS),
        )
        assert imbalances(found) == []
