"""The form's question and its answer: taken, or rejected without a word of what the person wrote and asked again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskAwaitingInput

from airlock.records import Disposition
from airlock.stages.person_text import LONGEST
from airlock_tasks.review import APPROVE, KEEP_HELD, NEEDS, ConvertedReviewOperator, ReviewOperator
from tests.chain import CONTRACT, ccda_pipeline, clinical_pipeline, pipeline, questions_to_people
from tests.markdown import blocks

CANARY = "Canary^Name"
TEAM = {"by": "the archive team", "timeout_hours": 24}
HELD = {
    "dispositions": {"released": 3, "held": 2, "quarantined": 7, "duplicate": 1},
    "report_uri": "s3://w/report.json",
}


def images(**review: Any) -> ReviewOperator:
    asked = pipeline(audit={"on_hold": "review"}, review=TEAM | review)
    with DAG("archive", schedule=None):
        return ReviewOperator(task_id="review", pipeline=asked)


def resources() -> ReviewOperator:
    asked = clinical_pipeline(audit={"on_hold": "review"}, review=TEAM, risk=CONTRACT)
    with DAG("records", schedule=None):
        return ReviewOperator(task_id="review", pipeline=asked)


def documents() -> ConvertedReviewOperator:
    with DAG("documents", schedule=None):
        return ConvertedReviewOperator(task_id="review", pipeline=ccda_pipeline(), audited_by="fhir.audit")


KINDS = {"imaging": images, "clinical": resources, "ccda": documents}


@pytest.fixture(autouse=True)
def questions(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return questions_to_people(monkeypatch)


def answered(
    review: ReviewOperator | ConvertedReviewOperator, choice: str, fields: Any, asked: datetime | None = None
) -> dict[str, Any]:
    """Give an answer to a review, as the REST API takes it."""
    event = {"chosen_options": [choice], "params_input": fields, "responded_at": datetime.now(UTC)}
    event |= {"responded_by_user": {"id": "1", "name": "ada"}}
    context = {"ti": SimpleNamespace(id="review", start_date=asked or datetime.now(UTC))}
    taken: dict[str, Any] = review.execute_complete(context, event)
    return taken


@pytest.mark.parametrize(
    "fields",
    [
        {"reason": "seen"},
        {"reason": "seen", "reasons": None},
        {"reason": "gesehen: ä\n"},
        {"reason": "x", "more": None},
    ],
)
def test_a_field_that_is_left_out_or_null_is_empty(fields: dict[str, Any]) -> None:
    assert answered(images(), APPROVE, fields)["params_input"] == fields


@pytest.mark.parametrize("fields", [None, {}, {"reasons": None}])
def test_keeping_held_needs_no_reason(fields: Any) -> None:
    assert answered(images(), KEEP_HELD, fields)["chosen_options"] == [KEEP_HELD]


@pytest.mark.parametrize("kind", KINDS)
def test_the_documented_answer_over_the_rest_api_is_taken_for_every_kind(kind: str) -> None:
    (block,) = [block for block in blocks("docs/review.md") if block.text.startswith("PATCH ")]
    body = json.loads(block.text.split("\n", 1)[1])
    assert body["params_input"].keys() >= {"reason"}
    taken = answered(KINDS[kind](), *body["chosen_options"], body["params_input"])
    assert taken["chosen_options"] == [APPROVE]


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"reason": None}, "An approval needs a person and a reason."),
        ({"reason": "\u200b \n."}, "An approval needs a person and a reason."),
        ({"reason": "seen", CANARY: CANARY}, "1 fields that are not in the form. Use reason, reasons"),
        ({"reason": [CANARY]}, "The field reason of the answer must be null or string"),
        ({"reason": "seen", "reasons": CANARY}, "The field reasons of the answer must be null or array"),
        ({"reason": "seen", "reasons": [{CANARY: 1}]}, "The field reasons of the answer must be null or array"),
        ({"reason": "seen", "reasons": [CANARY]}, "1 of the given reason codes cannot be released"),
        ({"reason": f"{CANARY}\0"}, "characters that cannot be stored"),
        ({"reason": f"{CANARY}\ud800"}, "characters that cannot be stored"),
        ({"reason": f"\x1b[2J{CANARY}"}, "characters that cannot be stored"),
        ({"reason": CANARY + "x" * LONGEST}, "2011 characters: write 2000 at most"),
    ],
)
def test_a_rejected_answer_opens_the_question_again_and_the_log_says_why_but_repeats_nothing(
    fields: dict[str, Any], refusal: str, questions: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TaskAwaitingInput) as parked:
        answered(images(), APPROVE, fields)
    assert parked.value.method_name == "execute_complete"
    assert len(questions) == 1
    log = capsys.readouterr().out
    assert "The answer is rejected." in log
    assert refusal in log
    assert "The question is open again." in log
    assert CANARY not in log + json.dumps(questions)


@pytest.mark.parametrize(("hours", "left"), [(0, 24), (22, 2), (25, 0)])
def test_rejected_answers_do_not_move_the_time_by_which_a_review_has_to_be_answered(hours: int, left: int) -> None:
    with pytest.raises(TaskAwaitingInput) as parked:
        answered(images(), APPROVE, {}, datetime.now(UTC) - timedelta(hours=hours))
    assert abs(parked.value.timeout - timedelta(hours=left)) < timedelta(minutes=1)
    assert parked.value.timeout > timedelta()


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_has_no_buttons_to_press_before_a_reason_is_written(kind: str) -> None:
    """Airflow's form disables them while a field whose type has no null is empty."""
    reason = KINDS[kind]().serialized_params["reason"]
    assert reason["value"] is None
    assert reason["schema"]["type"] == "string"
    assert reason["schema"]["maxLength"] == LONGEST


def test_everybody_may_answer_unless_users_are_named() -> None:
    assert not images().assigned_users
    assert "Only" not in images().body
    review = images(users=["ada", "12"])
    assert review.assigned_users == [{"id": "ada", "name": "ada"}, {"id": "12", "name": "12"}]
    assert review.body.startswith("For: the archive team. Only these users may answer: ada, 12.")


def test_the_form_says_what_waits_in_sentences() -> None:
    assert documents().describe({"awaiting_review": 2}, HELD) == (
        "2 resources wait for you. 3 are released, 7 were rejected, 1 is a duplicate.\n\nReport: s3://w/report.json"
    )
    assert documents().describe({"awaiting_review": 1}, {}).startswith("1 resource waits for you.\n")
    every = {str(word): 1 for word in Disposition}
    assert documents().describe({"awaiting_review": 1}, {"dispositions": every | {"held": 2}}).count(" 1 ") == len(
        every
    )
    assert "- study_incomplete: 4\n" in images().describe({"study_incomplete": 4}, HELD)
    assert NEEDS.startswith("**Approve needs a reason.**")
