"""``review:`` of a pipeline file: who may answer, and the names of earlier versions."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from airlock.pipelines.review import Review


def review(**changes: Any) -> Review:
    return Review.model_validate({"by": "the archive team"} | changes)


def test_everybody_may_answer_unless_somebody_is_named() -> None:
    assert review().lets_answer({"anybody"})
    named = review(assignees=["ada", "group:radiology"], deputies=["kim"])
    assert [named.lets_answer({name}) for name in ("ada", "group:radiology", "kim", "radiology", "eve")] == [
        *(True, True, True),
        *(False, False),
    ]


def test_airflow_gets_the_users_only_where_no_group_may_answer() -> None:
    """Airflow's own questions know no groups: with a list of users, the members of a group could not answer."""
    assert review(assignees=["ada"], deputies=["kim"]).users == ("ada", "kim")
    assert review(assignees=["ada", "group:radiology"]).users == ()
    assert review(deputies=["kim"]).users == ()


def test_users_is_the_old_name_of_assignees() -> None:
    assert review(users=["ada"]).assignees == ("ada",)
    with pytest.raises(ValidationError, match="assignees is given twice"):
        review(users=["ada"], assignees=["ada"])


def test_a_timeout_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValidationError, match=r"review\.timeout_hours is gone.*Remove it"):
        review(timeout_hours=168)


@pytest.mark.parametrize("wrong", [{"schedule": "never"}, {"remind_hours": 0}, {"assignees": ["ada,grace"]}])
def test_what_is_wrong_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        review(**wrong)
