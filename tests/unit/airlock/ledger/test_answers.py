"""The answers to a pipeline's reviews, with when their person opened them and what came later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from airlock.ledger.console import Console
from airlock.ledger.reviews import ReviewAnswer
from tests.unit.airlock.ledger.samples import NIGHTLY, begin
from tests.unit.airlock.ledger.test_reviews import answer, ask, questions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def console(url: str) -> Iterator[Console]:
    opened = Console.connect(url)
    yield opened
    opened.dispose()


def test_an_answer_has_its_person_its_opening_and_whether_the_subject_was_asked_again(
    ledger: Ledger, console: Console
) -> None:
    begin(ledger, "a", "b")
    ask(ledger, questions(one="1", two="2", three="3"))
    found = {one.subject: one for one in ledger.open_reviews({NIGHTLY})}
    for person, subject in (("ada", "one"), ("grace", "two"), ("ada", "one")):
        ledger.open_review(found[subject].number, person)
    answer(ledger, ReviewAnswer(True, "ada", "seen"), found["one"], found["two"])
    answer(ledger, ReviewAnswer(False, "grace", "the rest comes"), found["three"])
    ask(ledger, questions(one="other findings"), "b")
    with console.page() as page:
        given = page.answers_since(NIGHTLY, LONG_AGO)
        assert page.answers_since("other", LONG_AGO) == []
        assert page.answers_since(NIGHTLY, datetime.now(UTC) + timedelta(days=1)) == []
    assert [(one.person, one.approved, one.opened_at is not None, one.asked_again) for one in given] == [
        ("grace", False, False, False),
        ("ada", True, False, False),
        ("ada", True, True, True),
    ]
    assert all(one.opened_at is None or LONG_AGO < one.opened_at <= one.decided_at for one in given)
