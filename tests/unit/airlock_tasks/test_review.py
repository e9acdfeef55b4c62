"""The form's answer as Airflow hands it over: taken, or refused without a word of what the person wrote."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk import DAG

from airlock.review import ReviewError
from airlock.words import LONGEST
from airlock_tasks.review import APPROVE, KEEP_HELD, ReviewOperator
from tests.chain import pipeline

CANARY = "Canary^Name"


def answered(choice: str, fields: Any, person: str = "ada") -> dict[str, Any]:
    """Give an answer to a review, as the REST API takes it."""
    with DAG("archive", schedule=None):
        asked = pipeline(audit={"on_hold": "review"}, review={"by": "the archive team"})
        review = ReviewOperator(task_id="review", pipeline=asked)
    event = {"chosen_options": [choice], "params_input": fields, "responded_at": datetime.now(UTC)}
    taken: dict[str, Any] = review.execute_complete({}, event | {"responded_by_user": {"id": "1", "name": person}})
    return taken


@pytest.mark.parametrize(
    "fields", [{"reason": "seen"}, {"reason": "seen", "reasons": None}, {"reason": "gesehen: ä\n"}]
)
def test_a_field_that_is_left_out_is_empty(fields: dict[str, Any]) -> None:
    assert answered(APPROVE, fields)["params_input"] == fields


@pytest.mark.parametrize("fields", [None, {}, {"reasons": None}])
def test_keeping_held_needs_no_reason(fields: Any) -> None:
    assert answered(KEEP_HELD, fields)["chosen_options"] == [KEEP_HELD]


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"reason": "seen", CANARY: CANARY}, "1 fields that are not in the form: use reason, reasons"),
        ({"reason": [CANARY]}, "reason of the answer is of another type than null or string"),
        ({"reason": "seen", "reasons": CANARY}, "reasons of the answer is of another type than null or array"),
        ({"reason": "seen", "reasons": [{CANARY: 1}]}, "reasons of the answer is of another type"),
        ({"reason": "seen", "reasons": [CANARY]}, "1 of the given reason codes cannot be released"),
        ({"reason": f"{CANARY}\0"}, "characters that are no text"),
        ({"reason": f"{CANARY}\ud800"}, "characters that are no text"),
        ({"reason": f"\x1b[2J{CANARY}"}, "characters that are no text"),
        ({"reason": CANARY + "x" * LONGEST}, "2011 characters: write 2000 at most, and answer review again"),
        ({"reason": "\u200b \n."}, "needs a person and a reason"),
    ],
)
def test_a_refusal_names_the_field_and_repeats_nothing(fields: dict[str, Any], refusal: str) -> None:
    with pytest.raises(ReviewError, match=refusal) as caught:
        answered(APPROVE, fields)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
