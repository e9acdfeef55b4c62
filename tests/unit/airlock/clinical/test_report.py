"""The report counts units, and its lists can be read by people, spreadsheets and programs."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import polars as pl

from airlock.clinical.records import OPERATION_OUTCOMES
from airlock.clinical.report import dispositions_csv, operation_outcomes
from airlock.records import ARRIVALS
from airlock.stages.resources import CSV_COLUMNS, DISPOSITIONS
from tests.unit.airlock.clinical.books import unit
from tests.unit.airlock.world import frame

P1, O2 = unit("Patient/p1"), unit("Observation/o2")
LINE = {"arrival_id": "a", "line": 3, "verdict": "quarantine", "reason": "not_json"}
EMPTY = {"arrival_id": "e", "line": None, "verdict": "quarantine", "reason": "empty_object"}
ARRIVED = frame([{"arrival_id": name, "key": f"in/{name}", "size": 1000} for name in ("a", "e")], ARRIVALS)


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
        rows = frame(said, OPERATION_OUTCOMES).with_columns(key=pl.lit("in/a"))
        lines = operation_outcomes(rows).splitlines()
        assert [json.loads(line)["resource_id"] for line in lines] == ["p1", "o2"]
        named = {"key": "in/a", "line": 1, "resource_type": "Patient", "resource_id": "p1", "source": "local"}
        assert json.loads(lines[0]) == named | {"outcome": {"resourceType": "OperationOutcome", "issue": []}}

    def test_none_is_nothing(self) -> None:
        assert operation_outcomes(OPERATION_OUTCOMES.to_frame().with_columns(key=pl.lit("in/a"))) == ""
