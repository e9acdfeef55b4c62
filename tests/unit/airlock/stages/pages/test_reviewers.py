"""How people decide, in numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airlock.ledger.answers import GivenAnswer
from airlock.ledger.decision_counts import DecisionCount
from airlock.stages.pages.reviewers import Reviewer, list_reviewers, sum_decisions

AT = datetime(2026, 11, 30, 6, tzinfo=UTC)


def given(person: str, approved: bool = True, seconds: float | None = 60, again: bool = False) -> GivenAnswer:
    return GivenAnswer(person, approved, AT, None if seconds is None else AT - timedelta(seconds=seconds), again)


def test_who_answers_most_comes_first_with_their_median_time() -> None:
    answers = [given("grace", False, 5), *(given("ada", seconds=each) for each in (2, 4, 90))]
    assert list_reviewers(answers) == [Reviewer("ada", 3, 3, 0, 4.0, 0), Reviewer("grace", 1, 0, 0, 5.0, 0)]


def test_what_was_not_opened_has_no_time_and_a_kept_hold_is_not_an_approval() -> None:
    answers = [given("ada", seconds=None), given("ada", again=True), given("ada", approved=False, again=True)]
    assert list_reviewers(answers) == [Reviewer("ada", 3, 2, 1, 60.0, 1)]
    assert list_reviewers([given("ada", seconds=None)])[0].seconds is None


def test_the_sum_of_all_decisions_names_nobody() -> None:
    assert sum_decisions([DecisionCount("ada", 3, 1), DecisionCount("grace", 2, 0)]) == DecisionCount("all", 5, 1)
    assert sum_decisions([]) == DecisionCount("all", 0, 0)
