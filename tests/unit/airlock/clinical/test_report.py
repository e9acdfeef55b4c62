"""The report counts units, and its lists can be read by people, spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import polars as pl
import pytest

from airlock.clinical.records import OPERATION_OUTCOMES
from airlock.clinical.report import dispositions_csv, imbalances, operation_outcomes
from airlock.records import ARRIVALS
from airlock.stages.resources import CSV_COLUMNS, DISPOSITIONS, FILES
from tests.unit.airlock.clinical.books import outcomes, unit, verdicts
from tests.unit.airlock.world import frame

P1, O2 = unit("Patient/p1"), unit("Observation/o2")
LINE = {"arrival_id": "a", "line": 3, "verdict": "quarantine", "reason": "not_json"}
EMPTY = {"arrival_id": "e", "line": None, "verdict": "quarantine", "reason": "empty_object"}
ARRIVED = frame([{"arrival_id": name, "key": f"in/{name}", "size": 1000} for name in ("a", "e")], ARRIVALS)


MISCOUNTED = "verdicts: 1 files have another number of units than parse found"


def books(**changes: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the books of a run with three units in one file and none in another."""
    whole = {
        "arrivals": ARRIVED,
        "files": frame([{"arrival_id": "a", "units": 3}, {"arrival_id": "e", "units": 0}], FILES),
        "verdicts": verdicts(P1, O2, LINE, EMPTY),
        "outcomes": outcomes(P1, O2),
        "dispositions": frame([P1, O2, LINE, EMPTY], DISPOSITIONS),
        "held": ARRIVED,
    }
    return whole | changes


def twice(frame_: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([frame_, frame_[:1]])


class TestImbalances:
    def test_none_when_every_unit_is_in_one_place(self) -> None:
        assert imbalances(books()) == []
        empty = {name: rows.clear() for name, rows in books().items()}
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
            ({"dispositions": twice(books()["dispositions"])}, "dispositions: 1 units occur more than once"),
            ({"held": ARRIVED[:1]}, "the ledger: 1 arrivals are missing"),
            ({"arrivals": twice(ARRIVED)}, "arrivals: 1 arrivals occur more than once"),
            ({"files": twice(books()["files"])}, "files: 1 arrivals occur more than once"),
            ({"files": frame([{"arrival_id": "x", "units": 1}], FILES)}, "files: 1 arrivals do not belong there"),
        ],
    )  # fmt: skip
    def test_each_is_named(self, changes: dict[str, pl.DataFrame], problem: str) -> None:
        assert problem in imbalances(books(**changes))

    def test_a_file_that_was_not_parsed_yet_is_open_and_no_imbalance(self) -> None:
        units = (P1, O2, LINE)
        found = books(
            files=books()["files"][:1],
            verdicts=verdicts(*units),
            dispositions=frame([*units, {"arrival_id": "e", "line": None}], DISPOSITIONS),
        )
        assert imbalances(found) == []


def rows_of(*units: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(dispositions_csv(frame(list(units), DISPOSITIONS)))))


class TestCsv:
    def test_a_row_for_each_unit_that_is_not_simply_released(self) -> None:
        rejected = O2 | {"key": "in/a", "disposition": "failed", "reason": "rejected", "detail": "no"}
        (row,) = rows_of(P1 | {"disposition": "released"}, rejected)
        assert tuple(row) == CSV_COLUMNS
        assert (row["key"], row["line"], row["resource_type"], row["resource_id"]) == ("in/a", "2", "Observation", "o2")
        assert row["what_to_do"].startswith("The service did not import it")

    def test_a_file_as_a_whole_has_no_line(self) -> None:
        (row,) = rows_of(EMPTY | {"key": "in/e", "disposition": "quarantined"})
        assert (row["line"], row["resource_type"]) == ("", "")

    def test_a_formula_is_made_harmless(self) -> None:
        (row,) = rows_of(O2 | {"key": "=cmd()", "disposition": "failed", "detail": "+1"})
        assert (row["key"], row["detail"]) == ("'=cmd()", "'+1")


class TestOperationOutcomes:
    def test_one_line_of_json_each_in_the_order_of_the_files(self) -> None:
        text = '{"resourceType": "OperationOutcome",\n "issue": []}'
        said = [each | {"source": "local", "outcome": text} for each in (O2, P1)]
        lines = operation_outcomes(frame(said, OPERATION_OUTCOMES), ARRIVED).splitlines()
        assert [json.loads(line)["resource_id"] for line in lines] == ["p1", "o2"]
        named = {"key": "in/a", "line": 1, "resource_type": "Patient", "resource_id": "p1", "source": "local"}
        assert json.loads(lines[0]) == named | {"outcome": {"resourceType": "OperationOutcome", "issue": []}}

    def test_none_is_nothing(self) -> None:
        assert operation_outcomes(OPERATION_OUTCOMES.to_frame(), ARRIVED) == ""
