"""The report of a run: counts that name nobody, and one row per arrival."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from airlock.imaging.completeness import COUNTS
from airlock.imaging.gate import decide_dispositions, decide_studies, flag_blocking
from airlock.imaging.report import CSV_COLUMNS, Tally, build, imbalances
from airlock.ledger.gates import OVERRIDES
from airlock.pipelines import Audit
from airlock.records import ARRIVALS, CONTRACTS, DISPOSITIONS, HOLDS, Window, schema, study_key
from airlock.run import Run
from airlock.stages.reporting import describe_imbalances, to_csv
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.world import dicom, frame, outcomes, pipeline, unread, verdicts

CANARY = "MUELLER^HANS"
FILES = [
    dicom(f"{CANARY}/a", PatientName=CANARY, PatientID=CANARY, StudyInstanceUID="1.99.1"),
    dicom("b", StudyInstanceUID="1.99.2"),
    unread("c", "not_dicom", CANARY) | {"verdict": "quarantine"},
    dicom("d", StudyInstanceUID="1.99.3", verdict="quarantine", reason="element_too_long"),
    dicom("e", StudyInstanceUID="", verdict="quarantine", reason="missing_study_instance_uid"),
]


def books(*files: dict[str, Any]) -> dict[str, pl.DataFrame]:
    """Return the books of a run whose accepted files were imported, but file b, which was rejected."""
    decided = verdicts(*files)
    accepted = [each for each in files if each.get("verdict", "accept") == "accept"]
    facts = pl.concat(
        [
            outcomes(),
            *(
                outcomes(each, outcome="rejected", reason="rejected", detail=CANARY)
                if each["key"] == "in/b"
                else outcomes(each)
                for each in accepted
            ),
        ]
    )
    facts = flag_blocking(facts, Audit(), [])
    gates = decide_studies(decided, facts, {}, Audit(), balanced=True)
    arrivals = frame(list(files), ARRIVALS)
    rows = decide_dispositions(arrivals, decided, facts, gates)
    return {
        "arrivals": arrivals,
        "verdicts": decided,
        "outcomes": facts,
        "gates": gates,
        "counts": COUNTS.to_frame(),
        "contracts": contracts(*files),
        "dispositions": rows,
        "overrides": schema(HOLDS, OVERRIDES).to_frame(),
        "held": arrivals,
    }


def contracts(*files: dict[str, Any]) -> pl.DataFrame:
    """Return a contract of each study that has one; only studies with accepted files do."""
    studies = {each["StudyInstanceUID"] for each in files if each.get("verdict", "accept") == "accept"}
    text = json.dumps({"completeness": {"state": "partial"}})
    rows = [(uid, study_key(uid), 1, "digest", text) for uid in sorted(studies)]
    return pl.DataFrame(rows, schema=CONTRACTS, orient="row")


def built(*files: dict[str, Any], problems: list[str] | None = None, window: Window | None = None) -> dict[str, Any]:
    run = Run(pipeline(), "manual__1", window, S3Uri("archive", "in/"), None, None)  # type: ignore[arg-type]
    tally = Tally(len(files), sum(each["size"] for each in files))
    tally.add(books(*files))
    return build(run, tally, [{"batch_id": "b1"}], problems or [])


def rows(dispositions: pl.DataFrame) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(dispositions, CSV_COLUMNS), newline="")))


class TestReport:
    def test_it_counts_every_kind_of_decision(self) -> None:
        found = built(*FILES)
        assert (found["arrivals"], found["bytes"]) == (5, 5000)
        assert found["verdicts"] == {"quarantine": 3, "accept": 2}
        assert found["outcomes"] == {"imported": 1, "rejected": 1}
        assert found["dispositions"] == {"quarantined": 3, "failed": 1, "released": 1}
        assert found["studies"] == {"released": 1, "held": 1, "stopped": 1}
        assert found["completeness"] == {"partial": 1}, "not that of the held study"
        assert found["held"] == [{"study_key": study_key("1.99.2"), "reason": "rejected"}]
        assert found["reasons"]["not_dicom"]["arrivals"] == 1
        assert found["reasons"]["not_dicom"]["sentence"].endswith(".")
        assert (found["balanced"], found["problems"], found["jobs"]) == (True, [], [{"batch_id": "b1"}])

    def test_it_says_which_run_it_is_about(self) -> None:
        window = Window(datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC))
        found = built(*FILES, window=window)
        assert (found["schema"], found["pipeline"], found["run_id"]) == (
            "airlock.report/1",
            "nightly",
            "manual__1",
        )
        assert found["window"] == ["2026-11-23T00:00:00+00:00", "2026-11-24T00:00:00+00:00"]
        assert built(*FILES)["window"] is None

    def test_it_names_no_key_no_uid_and_no_identifier(self) -> None:
        text = json.dumps(built(*FILES))
        assert CANARY not in text
        assert "1.99" not in text
        assert "in/" not in text.replace("in/out", "")

    def test_files_without_a_study_are_counted_by_site_where_a_setting_names_the_sites(self) -> None:
        def count(**source: str) -> dict[str, Any]:
            line = pipeline(source=source)
            run = Run(line, "manual__1", None, S3Uri("archive", "in/"), None, None)  # type: ignore[arg-type]
            return dict(build(run, Tally(unattributed=Counter({"north": 1, "": 2})), [], [])["unattributed"])

        assert count(site_pattern="^in/(?P<site>[^/]+)/") == {"files": 3, "sites": {"": 2, "north": 1}}
        assert count() == {"files": 3, "sites": {}}, "the first folder may be named after a patient"

    def test_a_run_that_does_not_balance_says_so(self) -> None:
        found = built(*FILES, problems=["verdicts: 1 arrivals are missing"])
        assert (found["balanced"], found["problems"]) == (False, ["verdicts: 1 arrivals are missing"])

    def test_an_empty_delivery_has_a_report(self) -> None:
        found = built()
        assert (found["arrivals"], found["bytes"], found["verdicts"], found["dispositions"]) == (0, 0, {}, {})
        assert found["studies"] == {"released": 0, "held": 0, "stopped": 0}
        assert found["completeness"] == {}
        assert json.loads(json.dumps(found)) == found


def test_a_tally_of_parts_is_that_of_the_whole() -> None:
    whole, parts = Tally(), Tally()
    whole.add(books(*FILES))
    for each in FILES:
        parts.add(books(each))
    run = Run(pipeline(), "manual__1", None, S3Uri("archive", "in/"), None, None)  # type: ignore[arg-type]
    assert build(run, parts, [], []) == build(run, whole, [], [])


class TestCsv:
    def test_there_is_one_row_per_arrival_with_the_columns_that_people_know(self) -> None:
        table = rows(books(*FILES)["dispositions"])
        assert len(table) == len(FILES)
        assert {"key", "size", "sop_instance_uid", "study_instance_uid", "disposition"} < set(table[0])
        assert {"stage", "reason", "detail"} < set(table[0])
        assert list(table[0]) == list(CSV_COLUMNS)
        row = next(row for row in table if row["key"] == "in/b")
        assert (row["size"], row["disposition"], row["stage"], row["reason"]) == ("1000", "failed", "audit", "rejected")
        assert row["image_set_id"] == "i1"

    def test_of_no_arrivals_there_is_the_head(self) -> None:
        assert to_csv(DISPOSITIONS.to_frame(), CSV_COLUMNS) == ",".join(CSV_COLUMNS) + "\r\n"


class TestImbalances:
    def found(self, name: str, change: Any) -> list[str]:
        known = books(*FILES)
        return describe_imbalances(imbalances(known | {name: change(known[name])}))

    def test_books_that_balance_have_none(self) -> None:
        assert describe_imbalances(imbalances(books(*FILES))) == []
        assert describe_imbalances(imbalances(books())) == []

    @pytest.mark.parametrize(
        ("name", "step"),
        [("verdicts", "verdicts"), ("outcomes", "outcomes"), ("dispositions", "dispositions"), ("held", "the ledger")],
    )
    def test_a_row_that_is_missing_doubled_or_strange_is_found(self, name: str, step: str) -> None:
        assert f"{step}: 1 arrivals are missing" in self.found(name, lambda rows: rows[1:])
        assert f"{step}: 1 arrivals occur more than once" in self.found(name, lambda rows: pl.concat([rows, rows[:1]]))
        strange = self.found(
            name,
            lambda rows: rows.with_columns(
                arrival_id=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("x")).otherwise("arrival_id")
            ),
        )
        assert f"{step}: 1 arrivals do not belong there" in strange
        assert f"{step}: 1 arrivals are missing" in strange

    def test_an_arrival_that_is_missing_or_doubled_is_found(self) -> None:
        assert "verdicts: 1 arrivals do not belong there" in self.found("arrivals", lambda rows: rows[1:])
        assert "arrivals: 1 arrivals occur more than once" in self.found(
            "arrivals", lambda rows: pl.concat([rows, rows[:1]])
        )

    def test_an_outcome_of_what_was_not_accepted_is_found(self) -> None:
        assert self.found(
            "outcomes", lambda rows: pl.concat([rows, rows[:1].with_columns(arrival_id=pl.lit(FILES[2]["arrival_id"]))])
        ) == ["outcomes: 1 arrivals do not belong there"]

    def test_no_problem_names_an_arrival(self) -> None:
        text = str(self.found("verdicts", lambda rows: rows[1:]))
        assert not any(each["arrival_id"] in text or each["key"] in text for each in FILES)
