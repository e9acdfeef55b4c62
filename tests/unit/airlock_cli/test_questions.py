"""where, held and report: answers from the ledger, and from the workspace."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ledger import Resolution
from airlock.ledger.runs import name_wave
from airlock.ledger.split_studies import SPLIT
from airlock.reasons import RELEASED, SENTENCES
from airlock.records import study_key
from airlock.run import run_key
from tests.ledger_rows import count_arrivals
from tests.unit.airlock.ledger.parking import P1, bring, wait
from tests.unit.airlock.ledger.redriven import to_come
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, dispositions
from tests.unit.airlock_cli.conftest import HOSTILE, STUDY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from airlock.ledger import Ledger

REPORT: dict[str, Any] = {
    "pipeline": NIGHTLY,
    "run_id": "scheduled__a",
    "run_key": "a",
    "window": None,
    "arrivals": 2,
    "bytes": 2048,
    "verdicts": {"accept": 1, "quarantine": 1},
    "outcomes": {"imported": 1},
    "dispositions": {"held": 1, "quarantined": 1},
    "studies": {"released": 0, "held": 1},
    "reasons": {"truncated": {"arrivals": 1, "sentence": SENTENCES["truncated"]}},
    "jobs": [{"batch_id": "b", "job_id": "j", "status": "COMPLETED"}],
    "balanced": True,
    "problems": [],
}


class TestWhere:
    def test_tables_name_the_disposition_the_reason_and_what_to_do(self, told: Ledger, airlock: Any) -> None:
        result = airlock("where", STUDY)
        assert result.exit_code == 0
        shown = ("quarantined", "truncated", SENTENCES["truncated"], "scheduled__a", "image-set", "ImagingStudy/s")
        assert [text for text in shown if text not in result.stdout] == []

    def test_the_answer_comes_first_with_the_command_that_tries_it_again(self, told: Ledger, airlock: Any) -> None:
        lines = airlock("where", STUDY).stdout.splitlines()
        assert lines[0].startswith(f"HELD in {NIGHTLY} since ")
        assert "study_incomplete. Another file of the study was not imported." in lines[0]
        assert (
            f"airlock redrive {NIGHTLY} --study {study_key(STUDY)} --why '...' --dry-run"
            in airlock("where", STUDY).stdout
        )
        assert json.loads(airlock("where", STUDY, "--json").stdout)["headline"] == lines[0].rstrip()

    def test_a_file_that_was_released_all_the_same_asks_for_nothing(self, told: Ledger, airlock: Any) -> None:
        rows = dispositions("good", word="released").with_columns(reason=pl.lit("service_warning"))
        told.settle(NIGHTLY, "a", rows)
        told.override_holds(STORE, "a", pl.Series([STUDY]), "ada", "seen")
        found = json.loads(airlock("where", STUDY, "--json").stdout)
        (good,) = (row for row in found["arrivals"] if row["disposition"] == "released")
        assert good["what_to_do"] == found["gates"][0]["what_to_do"] == RELEASED

    def test_a_resource_that_waits_is_shown_with_what_it_waits_for(self, told: Ledger, airlock: Any) -> None:
        wait(told, "waits", Observation_o1=(P1, "Encounter/e1"))
        (row,) = json.loads(airlock("where", "Observation/o1", "--json").stdout)["parked"]
        assert (row["disposition"], row["is_due"]) == ("parked", False)
        assert sorted(row["waits_for"]) == ["Encounter/e1", P1]
        assert P1 in airlock("where", "Observation/o1").stdout
        bring(told, "brings", P1, "Encounter/e1")
        assert json.loads(airlock("where", "Observation/o1", "--json").stdout)["parked"][0]["is_due"]
        (row,) = json.loads(airlock("where", P1, "--json").stdout)["resources"]
        assert row["disposition"] == "released"

    def test_no_patient_is_named(self, told: Ledger, airlock: Any) -> None:
        for result in (airlock("where", STUDY), airlock("where", STUDY, "--json")):
            assert "CANARY" not in result.output

    def test_a_hostile_key_and_detail_cannot_act_on_the_terminal(self, told: Ledger, airlock: Any) -> None:
        result = airlock("where", f"in/{HOSTILE}")
        assert result.exit_code == 0
        assert r"\x1b]0;owned\x07" in result.stdout
        assert "[red]markup[/red]" in result.stdout
        assert all(one.isprintable() for one in result.stdout.replace("\n", ""))

    def test_json_has_everything_exactly(self, told: Ledger, airlock: Any) -> None:
        found = json.loads(airlock("where", study_key(STUDY), "--json").stdout)
        assert found["schema"] == "airlock.where/1"
        assert found["known_as"] == ["study_key"]
        assert {row["key"] for row in found["arrivals"]} == {"in/good", f"in/{HOSTILE}"}
        assert found["gates"][0]["what_to_do"] == SENTENCES["study_incomplete"]
        assert found["contracts"][0]["fhir"]["Endpoint"] == ["Endpoint/e"]

    def test_who_redrove_it_and_what_became_of_its_image_set(self, told: Ledger, airlock: Any) -> None:
        told.settle(NIGHTLY, "a", dispositions("good", word="held").with_columns(image_set_id=pl.lit("image-set")))
        begin(told, "r")
        asked = {"asked_by": "ada", "why": "sent \x1b[31magain", "choice": {"run": "a", "non_primary": "promote"}}
        told.redrive(NIGHTLY, "r", to_come("good"), asked)
        for image_set in ("image-set", "of another study"):
            told.begin_resolution(STORE, "r", image_set, Resolution.PROMOTE)
        found = json.loads(airlock("where", "in/good", "--json").stdout)
        (redrive,), (resolution,) = found["redrives"], found["resolutions"]
        assert (redrive["run_id"], redrive["asked_by"], redrive["why"]) == ("scheduled__r", "ada", asked["why"])
        assert (resolution["image_set_id"], resolution["resolution"]) == ("image-set", "promote")
        assert r"sent \x1b[31magain" in airlock("where", "in/good").stdout

    def test_the_runs_that_a_study_waits_for_are_named_with_what_to_do(self, told: Ledger, airlock: Any) -> None:
        wave = name_wave("scheduled__a", 2)
        split = pl.DataFrame([(STUDY, "")], schema=SPLIT, orient="row")
        told.claim(NIGHTLY, "a", arrivals(), datetime.now(UTC))
        told.await_waves(STORE, NIGHTLY, "a", {"": {wave: "second"}}, [split])
        (wait,) = json.loads(airlock("where", STUDY, "--json").stdout)["waits_for"]
        assert (wait["run_id"], wait["state"], wait["pipeline"]) == (wave, "expected", NIGHTLY)
        assert "that has claimed is run scheduled__a: let it go on" in wait["what_to_do"]
        assert wait["what_to_do"].endswith(f"To wait no longer: airlock ledger release {NIGHTLY} {wave}")
        assert wave in airlock("where", STUDY).stdout
        released = airlock("ledger", "release", NIGHTLY, wave)
        assert (released.exit_code, "1 studies wait for this wave no longer" in released.output) == (0, True)
        assert json.loads(airlock("where", STUDY, "--json").stdout)["waits_for"] == []

    def test_what_is_not_there_is_said_with_what_it_was_looked_for_as(self, told: Ledger, airlock: Any) -> None:
        result = airlock("where", "9.9.9")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "9.9.9" in result.stderr
        assert "StudyInstanceUID or study_key" in result.stderr

    def test_a_name_that_no_file_can_have_is_refused(self, told: Ledger, airlock: Any) -> None:
        result = airlock("where", "in/\udcff")
        assert result.exit_code == 2
        assert "UTF-8" in result.stderr


class TestHeld:
    def test_a_study_is_listed_with_the_file_that_holds_it(self, told: Ledger, airlock: Any) -> None:
        result = airlock("held", NIGHTLY)
        assert result.exit_code == 0
        for text in (study_key(STUDY), "study_incomplete", SENTENCES["study_incomplete"], "1 quarantined: truncated"):
            assert text in result.stdout
        [row] = json.loads(airlock("held", "--json").stdout)["held"]
        assert row["subject"] == STUDY
        assert {"disposition": "quarantined", "reason": "truncated", "arrivals": 1} in row["arrivals"]

    def test_its_table_names_neither_a_study_nor_a_key(self, told: Ledger, airlock: Any) -> None:
        shown = airlock("held", NIGHTLY).output
        assert [text for text in (STUDY, HOSTILE, "in/", "CANARY") if text in shown] == []

    @pytest.mark.parametrize(("reason", "number"), [("study_incomplete", 1), ("truncated", 1), ("non_primary", 0)])
    def test_a_reason_chooses_by_the_gate_and_by_the_arrivals(
        self, told: Ledger, airlock: Any, reason: str, number: int
    ) -> None:
        found = json.loads(airlock("held", "--reason", reason, "--json").stdout)
        assert len(found["held"]) == number

    def test_overdue_objects_are_listed_with_what_to_do(self, told: Ledger, airlock: Any) -> None:
        begin(told, "b", pipeline="another")
        told.claim("another", "b", arrivals("gone", "denied"))
        told.release_claims("another", "b")
        assert json.loads(airlock("held", "another", "--json").stdout)["overdue"] == []  # owed, not overdue
        told.end_owed("another", datetime.now(UTC))
        where = airlock("where", "in/gone")  # its arrival is given back
        assert where.exit_code == 0
        assert "given_back" in where.stdout
        result = airlock("held", "another")
        assert result.stderr.startswith("Nothing is held for another.")
        for text in ("overdue: 2", "given_back", "Ask the sender for it again"):
            assert text in result.stdout
        assert airlock("held", NIGHTLY, "--json").stdout.count("given_back") == 0
        [row] = json.loads(airlock("held", "--json").stdout)["overdue"]
        assert (row["pipeline"], row["objects"], row["reason"]) == ("another", 2, "given_back")
        assert json.loads(airlock("held", "--reason", "truncated", "--json").stdout)["overdue"] == []

    def test_what_is_parked_is_counted_and_old_safety_types_are_first(self, told: Ledger, airlock: Any) -> None:
        wait(told, "waits", Observation_o1=(P1,), Observation_o2=(P1,), MedicationDispense_d1=(P1,))
        found = json.loads(airlock("held", NIGHTLY, "--json").stdout)["parked"]
        assert [(row["resource_type"], row["resources"], row["late"]) for row in found] == [
            ("MedicationDispense", 1, True),
            ("Observation", 2, False),
        ]
        assert "MedicationDispense" in airlock("held", NIGHTLY).stdout
        assert json.loads(airlock("held", "--reason", "truncated", "--json").stdout)["parked"] == []

    def test_nothing_held_is_said_with_how_the_last_run_ended(self, told: Ledger, airlock: Any) -> None:
        began = told.open_run("b", "another", "manual__b", None).started_at.strftime("%Y-%m-%d %H:%M:%SZ")
        for report, books in ((None, "not audited yet"), (REPORT, "its books balance")):
            if report:
                told.close_run("b", "audited", report)
            result = airlock("held", "another")
            assert (result.exit_code, result.stdout) == (0, "")
            assert result.stderr == f"Nothing is held for another. Last run: {began}, {books}.\n"
        assert airlock("held", "another", "--reason", "truncated").stderr.startswith(
            "Nothing is held for another with reason truncated. "
        )
        assert airlock("held", "--reason", "non_primary").stderr == "Nothing is held with reason non_primary.\n"

    @pytest.mark.usefixtures("pipelines")
    def test_a_pipeline_that_has_not_run_is_told_from_one_that_is_not_there(
        self, url: str, airlock: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", url)
        result = airlock("held", NIGHTLY)
        assert (result.exit_code, result.stderr) == (0, "Nothing is held for nightly. It has not run yet.\n")
        result = airlock("report", NIGHTLY)
        assert (result.exit_code, result.stderr) == (1, "nightly has not run yet.\n")

    def test_a_code_that_does_not_exist_is_refused_with_those_near_it(self, airlock: Any) -> None:
        result = airlock("held", "--reason", "non_primry")
        assert result.exit_code == 2
        assert "did you mean non_primary" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("held", "nigthly"),
        ("report", "nigthly"),
        ("report", "nigthly", "a"),
        ("ledger", "release", "nigthly", "a"),
        ("ledger", "requeue", "nigthly"),
        ("plan", "nigthly"),
        ("redrive", "nigthly", "--why", "x", "--reason", "truncated", "--dry-run"),
    ],
    ids=" ".join,
)
def test_a_pipeline_that_is_not_there_is_an_error_with_the_nearest_name(
    told: Ledger, airlock: Any, pipelines: Path, command: tuple[str, ...]
) -> None:
    result = airlock(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'nigthly': did you mean nightly?" in result.stderr


def test_without_pipeline_files_a_pipeline_is_only_not_in_the_ledger(told: Ledger, airlock: Any) -> None:
    unknown = "in the ledger, and AIRLOCK_PIPELINES is not set"
    assert f"There is no pipeline 'nigthly' {unknown}: did you mean nightly?" in airlock("held", "nigthly").stderr
    assert f"There is no pipeline 'x' {unknown}: there are nightly" in airlock("held", "x").stderr


def test_in_an_empty_ledger_a_pipeline_is_known_by_its_file(
    url: str, airlock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", url)
    assert "AIRLOCK_PIPELINES is not set: set it to the folder" in airlock("held", NIGHTLY).stderr


class TestReport:
    def test_the_newest_run_is_shown_in_tables(self, told: Ledger, airlock: Any) -> None:
        told.close_run("a", "success", REPORT)
        result = airlock("report", NIGHTLY)
        assert result.exit_code == 0
        for text in ("balance", "2.0 KiB", "quarantined", SENTENCES["truncated"], "COMPLETED"):
            assert text in result.stdout
        assert json.loads(airlock("report", NIGHTLY, "scheduled__a", "--json").stdout) == REPORT

    def test_books_that_do_not_balance_are_wrong(self, told: Ledger, airlock: Any) -> None:
        told.close_run("a", "success", REPORT | {"balanced": False, "problems": ["one arrival is missing"]})
        result = airlock("report", NIGHTLY)
        assert result.exit_code == 1
        assert "DO NOT BALANCE" in result.stdout
        assert "one arrival is missing" in result.stdout

    def test_a_run_that_goes_on_has_none_yet(self, told: Ledger, airlock: Any) -> None:
        begin(told, "b")
        assert airlock("report", NIGHTLY, "b").exit_code == 4

    def test_an_unknown_run_is_not_there(self, told: Ledger, airlock: Any) -> None:
        result = airlock("report", NIGHTLY, "none")
        assert result.exit_code == 1
        assert "no run 'none'" in result.stderr

    @pytest.mark.usefixtures("pipelines")
    def test_without_a_ledger_the_workspace_is_asked(self, s3: Any, airlock: Callable[..., Result]) -> None:
        key = f"runs/{NIGHTLY}/{run_key(NIGHTLY, 'scheduled__a')}/audit/report.json"
        s3.put_object(Bucket="airlock-workspace", Key=key, Body=json.dumps(REPORT))
        assert json.loads(airlock("report", NIGHTLY, "scheduled__a", "--json").stdout) == REPORT
        assert airlock("report", NIGHTLY, "another").exit_code == 1
        assert airlock("report", NIGHTLY).exit_code == 2, "which one is the newest only the ledger knows"


@pytest.mark.usefixtures("pipelines", "s3")
class TestRedriveDryRun:
    def test_what_would_be_chosen_is_shown_and_nothing_claimed(self, told: Ledger, airlock: Any) -> None:
        told.close_run("a", "success", REPORT)
        before = count_arrivals(told, NIGHTLY)
        result = airlock("redrive", NIGHTLY, "--why", "sent again", "--reason", "truncated", "--dry-run", "--json")
        assert result.exit_code == 0, result.stderr
        assert {row["reason"] for row in json.loads(result.stdout)["chosen"]} == {"truncated", "study_incomplete"}
        assert count_arrivals(told, NIGHTLY) == before

    def test_a_choice_that_is_refused_says_why(self, told: Ledger, airlock: Any) -> None:
        told.close_run("a", "success", REPORT)
        result = airlock("redrive", NIGHTLY, "--why", "x", "--reason", "rejected", "--dry-run")
        assert result.exit_code == 2
        assert "No held, quarantined or failed arrival meets the request" in result.stderr
