import json

import pytest

from airlock_cli import watch
from airlock_cli.watch import stage_line, waits_for_a_person
from airlock_local.failures import describe_failures
from airlock_local.report import audit_lines


def instance(state, *, task="parse", index=-1, tries=1, start="2026-11-24T10:00:00Z", end=None):
    return {
        "dag_id": "sample",
        "dag_run_id": "manual__1",
        "task_id": task,
        "map_index": index,
        "state": state,
        "try_number": tries,
        "start_date": start,
        "end_date": end,
    }


@pytest.mark.parametrize(
    ("states", "line"),
    [
        ([None], ""),
        (["queued", "scheduled"], ""),
        (["running"], "running"),
        (["deferred"], "waiting"),
        (["awaiting_input"], "waiting for a person: answer it in the UI, under Required Actions"),
        (["success", "running", "queued"], "1 of 3 done, 1 running"),
        (["up_for_retry"], "will be tried again, and nothing is done twice; its log has the reason"),
        (["skipped"], "skipped"),
    ],
)
def test_a_stage_is_told_in_words(states, line):
    assert stage_line([instance(state) for state in states]) == line


def test_a_finished_stage_says_how_long_it_took_from_its_first_start_to_its_last_end():
    done = [
        instance("success", start="2026-11-24T10:00:00Z", end="2026-11-24T10:00:02Z"),
        instance("success", start="2026-11-24T10:00:01Z", end="2026-11-24T10:00:03.5Z"),
    ]
    assert stage_line(done) == "done, 2 tasks (3.5 s)"


def test_a_failed_task_is_named_with_its_cause_and_its_log(tmp_path):
    folder = tmp_path / "dag_id=sample/run_id=manual__1/task_id=parse/map_index=2"
    folder.mkdir(parents=True)
    lines = [{"event": "x"}, {"error_detail": [{"exc_type": "AccessDenied", "exc_value": "give s3:GetObject"}]}]
    (folder / "attempt=3.log").write_text("plain text\n" + "\n".join(map(json.dumps, lines)))
    [text] = describe_failures([instance("failed", index=2, tries=3), instance("success", index=1)], tmp_path)
    assert text == (
        f"parse[2] failed at try 3 with AccessDenied: give s3:GetObject. Its log: {folder / 'attempt=3.log'}"
    )


def test_a_task_without_a_log_has_no_known_cause(tmp_path):
    [text] = describe_failures([instance("failed")], tmp_path)
    assert text.startswith("parse failed at try 1. Its log: ")


REPORT = {
    "arrivals": 3,
    "verdicts": {"accept": 2, "ignore": 1},
    "outcomes": {"imported": 2},
    "dispositions": {"released": 2, "ignored": 1},
    "studies": {"released": 1, "held": 0},
    "jobs": [{"job_id": "a"}],
    "reasons": {"sidecar": {"arrivals": 1, "sentence": "Nothing to do."}},
    "balanced": True,
    "problems": [],
}


def test_the_audit_names_every_count_and_each_reason_with_its_sentence():
    text = "\n".join(audit_lines(REPORT, 3))
    assert "Audit of 3 files: the books balance." in text
    assert "2 accept, 1 ignore" in text
    assert "1  sidecar: Nothing to do." in text
    assert "Earlier runs settled" not in text


def test_what_reading_the_headers_has_cost_is_one_line():
    cost = {"arrivals": 3, "requests_per_arrival": 1.084, "kib_per_arrival": 17.06, "fallbacks": {}}
    doubts = {"fallbacks": {"text": 1, "character_set": 2}}
    assert "  headers       1.08 requests and 17.1 KiB each" in audit_lines(REPORT | {"reading": cost}, 3)
    assert any(line.endswith("each, 3 left to pydicom") for line in audit_lines(REPORT | {"reading": cost | doubts}, 3))
    assert not any("KiB" in line for line in audit_lines(REPORT | {"reading": {"arrivals": 0}}, 3))


CLINICAL = {
    "arrivals": 2,
    "resources": 5,
    "verdicts": {"accept": 4, "quarantine": 2},
    "outcomes": {"imported": 4},
    "dispositions": {"released": 4, "quarantined": 2},
    "patients": {"released": 1, "held": 1},
    "files": {"released": 1, "held": 0, "quarantined": 1},
    "jobs": [{"job_id": "a"}],
    "reasons": {"not_json": {"units": 1, "sentence": "Ask again."}},
    "validation_level": "strict",
    "balanced": True,
    "problems": [],
}


def test_a_clinical_audit_counts_resources_patients_and_files():
    lines = [" ".join(line.split()) for line in audit_lines(CLINICAL, 2)]
    assert "Audit of 6 units in 2 files (5 resources): the books balance." in lines
    assert {"patients 1 released, 1 held", "files 1 released, 1 quarantined", "validation strict"} <= set(lines)
    assert "1 not_json: Ask again." in lines


def test_a_delivery_of_which_nothing_is_new_says_so():
    nothing = REPORT | {name: {} for name in ("verdicts", "outcomes", "dispositions", "reasons")}
    assert "Nothing new: earlier runs settled 7 files." in audit_lines(nothing | {"arrivals": 0, "jobs": []}, 7)


def test_books_that_do_not_balance_are_cried_out():
    text = "\n".join(audit_lines(REPORT | {"balanced": False, "problems": ["one arrival has no verdict"]}, 3))
    assert "THE BOOKS DO NOT BALANCE, nothing is released: one arrival has no verdict" in text


@pytest.mark.parametrize(
    ("states", "waits"),
    [
        (["success", "awaiting_input", None], True),
        (["success", "awaiting_input", "running"], False),
        (["success", "deferred", None], False),
        (["success", "success"], False),
    ],
)
def test_a_run_waits_for_a_person_when_nothing_else_moves(states, waits):
    assert waits_for_a_person([{"state": state} for state in states]) is waits


class SlowAirflow:
    """Answers as a run that is queued behind another, then runs a long task, then ends."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def run_state(self, dag, run):
        return self.answers[0][0]

    def task_instances(self, dag, run):
        _, tasks = self.answers[0]
        if len(self.answers) > 1:
            self.answers.pop(0)
        return tasks

    def unfinished_runs(self, dag):
        return ["manual__1", "scheduled__0"]


@pytest.mark.parametrize(("seconds", "silent"), [(0.0, False), (3600.0, True)])
def test_a_silence_is_broken_with_what_is_waited_for(monkeypatch, seconds, silent):
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0)
    monkeypatch.setattr(watch, "_SILENCE_SECONDS", seconds)
    running = [instance("success"), instance("running", task="import"), instance(None, task="audit")]
    api = SlowAirflow(("queued", []), ("running", running), ("running", running), ("success", [instance("success")]))
    lines = []
    watch.follow(api, "sample", "manual__1", lines.append, lambda: None)
    told = [
        "  still waiting for Airflow to start the next task: run scheduled__0 has not ended",
        "  import          still running",
    ]
    assert [line for line in told if line in lines] == ([] if silent else told)
