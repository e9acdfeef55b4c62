"""The queue of reviews: asked once, answered once, by the first of two people, for what they have seen."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from sqlalchemy import select

from airlock.ledger import Ledger, LedgerError, ReviewAnswer, ReviewTakenError
from airlock.ledger.decision_tables import decisions
from airlock.ledger.gates import GATES
from airlock.ledger.reviews import ASKED, CHOSEN, ReviewRecord
from airlock.records import study_key
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, begin, uids

if TYPE_CHECKING:
    from tests.unit.airlock.ledger.conftest import Clock

YES = ReviewAnswer(True, "ada", "seen beside the source")
NO = ReviewAnswer(False, "grace", "the sender has more")
AN_HOUR = timedelta(hours=1)


@pytest.fixture
def opened(ledger: Ledger, clock: Clock) -> Ledger:
    begin(ledger, "a", "b")
    return ledger


def questions(reason: str = "truncated", site: str = "", **seen: str) -> pl.DataFrame:
    """Return a question about each subject, with the digest of its findings."""
    rows = [(name, study_key(name), site, reason, "study_incomplete", digest, "{}") for name, digest in seen.items()]
    return pl.DataFrame(rows, schema=ASKED, orient="row")


def ask(ledger: Ledger, asked: pl.DataFrame, run: str = "a", *, released: Any = (), **more: Any) -> int:
    decided = pl.concat([asked["subject"], uids(*released)]) if "decided" not in more else more["decided"]
    people = {"assignee": "archive team", "deputy": None}
    return ledger.ask_reviews(NIGHTLY, STORE, run, asked, decided=decided, released=uids(*released), **people)


def answer(ledger: Ledger, given: ReviewAnswer, *found: ReviewRecord) -> int:
    rows = [(one.run_key, one.subject, one.seen) for one in found]
    return ledger.answer_reviews(NIGHTLY, STORE, pl.DataFrame(rows, schema=CHOSEN, orient="row"), given)


def waiting(ledger: Ledger) -> dict[str, str]:
    return {one.subject: one.seen for one in ledger.open_reviews({NIGHTLY})}


def events(ledger: Ledger) -> list[tuple[str, str, str]]:
    chosen = select(decisions.c.kind, decisions.c.subject, decisions.c.decided_by).order_by(decisions.c.id)
    with ledger._reading() as connection:
        return [tuple(row) for row in connection.execute(chosen)]


def test_a_repeated_audit_does_not_ask_the_same_again(opened: Ledger) -> None:
    assert ask(opened, questions(s1="x", s2="y")) == 2
    before = opened.open_reviews({NIGHTLY})
    assert ask(opened, questions(s1="x", s2="y")) == 0
    assert opened.open_reviews({NIGHTLY}) == before


def test_other_findings_close_the_question_and_ask_anew(opened: Ledger) -> None:
    ask(opened, questions(s1="x"))
    (before,) = opened.open_reviews({NIGHTLY})
    assert ask(opened, questions(s1="z")) == 1
    assert waiting(opened) == {"s1": "z"}
    closed = opened.review(before.number)
    assert closed is not None
    assert (closed.waits, closed.decided_by) == (False, None)


def test_findings_that_return_without_an_answer_are_asked_again(opened: Ledger) -> None:
    for seen in ("x", "z", "x"):
        assert ask(opened, questions(s1=seen)) == 1


def test_what_an_audit_does_not_decide_on_is_left_alone(opened: Ledger) -> None:
    ask(opened, questions(s1="x", s2="y"))
    ask(opened, questions(s1="x"), decided=uids("s1"))
    assert waiting(opened) == {"s1": "x", "s2": "y"}
    ask(opened, questions(s1="x"), decided=None)
    assert waiting(opened) == {"s1": "x"}


def test_a_release_closes_the_questions_of_other_runs_too(opened: Ledger) -> None:
    ask(opened, questions(s1="x", s2="y"))
    ask(opened, questions(), "b", released=["s1"])
    assert waiting(opened) == {"s2": "y"}


def test_an_approval_waits_for_the_audit_that_applies_it(opened: Ledger) -> None:
    ask(opened, questions(s1="x"))
    (asked,) = opened.open_reviews({NIGHTLY})
    assert answer(opened, YES, asked) == 1
    assert waiting(opened) == {}
    assert opened.answered_runs(NIGHTLY) == [("a", "scheduled__a")]
    found = opened.review(asked.number)
    assert found is not None
    assert (found.decided_by, found.why, found.answer, found.closed_at) == ("ada", YES.why, "approve", None)
    override = opened.overrides_of(STORE, "a").row(0, named=True)
    assert (override["subject"], override["findings"], override["overridden_by"]) == ("s1", "x", "ada")
    assert override["reasons"] == ["study_incomplete"]
    ask(opened, questions(s1="x"))  # an audit that had read the decisions before
    assert opened.answered_runs(NIGHTLY) == [("a", "scheduled__a")]
    ask(opened, questions(), released=["s1"])
    assert opened.answered_runs(NIGHTLY) == []


def test_what_was_kept_held_is_not_asked_again(opened: Ledger) -> None:
    ask(opened, questions(s1="x"))
    answer(opened, NO, *opened.open_reviews({NIGHTLY}))
    assert ask(opened, questions(s1="x")) == 0
    assert opened.answered_runs(NIGHTLY) == []
    assert opened.overrides_of(STORE, "a").is_empty()
    assert ask(opened, questions(s1="z")) == 1


def test_an_approval_that_did_not_count_is_closed_and_holds_up_nothing(opened: Ledger) -> None:
    ask(opened, questions(s1="x", s2="y"))
    first, second = opened.open_reviews({NIGHTLY})
    answer(opened, YES, first)
    considered = opened.last_approval("a")
    answer(opened, YES, second)
    assert opened.close_approvals("a", considered) == 1
    assert opened.answered_runs(NIGHTLY) == [("a", "scheduled__a")]
    assert opened.close_approvals("a", opened.last_approval("a")) == 1
    assert opened.answered_runs(NIGHTLY) == []


def test_an_approval_whose_findings_changed_is_closed_as_one_that_did_not_count(opened: Ledger) -> None:
    ask(opened, questions(s1="x"))
    (approved,) = opened.open_reviews({NIGHTLY})
    answer(opened, YES, approved)
    ask(opened, questions(s1="z"))
    assert opened.close_approvals("a", opened.last_approval("a")) == 1, "people are told of it"
    closed = opened.review(approved.number)
    assert closed is not None
    assert closed.state == "closed without an answer that counts: its findings have changed, or it was released"
    assert waiting(opened) == {"s1": "z"}


def test_an_approval_that_did_not_count_never_counts_again(opened: Ledger, clock: Clock) -> None:
    ask(opened, questions(s1="x"))
    answer(opened, YES, *opened.open_reviews({NIGHTLY}))
    clock.now += AN_HOUR
    ask(opened, questions(s1="z"))
    opened.close_approvals("a", opened.last_approval("a"))
    assert opened.overrides_of(STORE, "a").is_empty()
    clock.now += AN_HOUR
    assert ask(opened, questions(s1="x")) == 1, "the findings are back: people are asked again"
    assert opened.overrides_of(STORE, "a").is_empty()
    answer(opened, YES, *opened.open_reviews({NIGHTLY}))
    assert opened.overrides_of(STORE, "a")["findings"].to_list() == ["x"]


def test_a_second_approval_of_the_same_findings_counts_whenever_the_first_is_closed(
    opened: Ledger, clock: Clock
) -> None:
    ask(opened, questions(s1="x"))
    answer(opened, YES, *opened.open_reviews({NIGHTLY}))
    first = opened.last_approval("a")
    ask(opened, questions(s1="z"))
    answer(opened, NO, *opened.open_reviews({NIGHTLY}))
    clock.now += AN_HOUR
    assert ask(opened, questions(s1="x")) == 1, "somebody has kept it held since"
    clock.now += AN_HOUR
    answer(opened, YES, *opened.open_reviews({NIGHTLY}))
    clock.now += AN_HOUR
    assert opened.close_approvals("a", first) == 1
    (counts,) = opened.overrides_of(STORE, "a").iter_rows(named=True)
    assert counts["overridden_at"] == clock.now - AN_HOUR


def test_an_approval_waits_while_only_the_publication_is_missing(opened: Ledger) -> None:
    ask(opened, questions(s1="x"))
    answer(opened, YES, *opened.open_reviews({NIGHTLY}))
    row = ("s1", study_key("s1"), "hold", "not_published")
    opened.record_gates(STORE, "a", pl.DataFrame([row], schema=GATES, orient="row"))
    until = opened.last_approval("a")
    assert opened.close_approvals("a", until) == 0
    assert opened.answered_runs(NIGHTLY) == [("a", "scheduled__a")], "the next review run publishes it again"
    assert opened.overrides_of(STORE, "a").height == 1
    assert opened.close_approvals("a", until, with_unpublished=True) == 1


def test_the_second_of_two_answers_is_refused_and_nothing_of_it_is_recorded(opened: Ledger) -> None:
    ask(opened, questions(s1="x", s2="y"))
    first, second = opened.open_reviews({NIGHTLY})
    answer(opened, YES, first)
    with pytest.raises(ReviewTakenError, match="1 of 2 reviews do not wait"):
        answer(opened, NO, first, second)
    assert events(opened) == [("override", "s1", "ada")]
    assert waiting(opened) == {"s2": "y"}


def test_of_many_people_at_once_one_wins(opened: Ledger) -> None:
    ask(opened, questions(s1="x"))
    (asked,) = opened.open_reviews({NIGHTLY})
    start, results = threading.Barrier(4), []

    def one(name: str) -> None:
        start.wait()
        try:
            answer(opened, ReviewAnswer(True, name, "seen"), asked)
            results.append("won")
        except ReviewTakenError:
            results.append("lost")

    people = [threading.Thread(target=one, args=(f"p{number}",)) for number in range(4)]
    for each in people:
        each.start()
    for each in people:
        each.join()
    assert sorted(results) == ["lost", "lost", "lost", "won"]
    assert len(events(opened)) == 1


def test_an_answer_about_findings_that_have_changed_is_refused(opened: Ledger) -> None:
    ask(opened, questions(s1="x"))
    (asked,) = opened.open_reviews({NIGHTLY})
    ask(opened, questions(s1="z"))
    with pytest.raises(ReviewTakenError):
        answer(opened, YES, asked)
    assert events(opened) == []


def approve_first(ledger: Ledger, given: ReviewAnswer, *found: ReviewRecord) -> int:
    rows = [(one.run_key, one.subject, one.seen) for one in found]
    return ledger.approve_first(NIGHTLY, STORE, pl.DataFrame(rows, schema=CHOSEN, orient="row"), given)


def test_a_first_approval_is_an_event_and_releases_nothing(opened: Ledger) -> None:
    ask(opened, questions(s1="x", s2="y"))
    first, _ = opened.open_reviews({NIGHTLY})
    assert approve_first(opened, YES, first) == 1
    (found, other) = opened.open_reviews({NIGHTLY})
    assert (found.waits, found.first_by, found.first_why, other.first_by) == (True, "ada", YES.why, None)
    assert found.state == "approved by one person (ada), a second is needed"
    assert (opened.answered_runs(NIGHTLY), opened.overrides_of(STORE, "a").height) == ([], 0)
    assert [(one.reviews, one.approved_once) for one in opened.review_groups({NIGHTLY})] == [(2, 1)]
    with pytest.raises(ReviewTakenError):
        approve_first(opened, ReviewAnswer(True, "grace", "seen"), found)
    answer(opened, ReviewAnswer(True, "grace", "seen too"), found)
    done = opened.review(found.number)
    assert done is not None
    assert (done.first_by, done.decided_by) == ("ada", "grace")
    assert events(opened) == [("first", "s1", "ada"), ("override", "s1", "grace")]


def test_a_first_approval_is_void_once_other_findings_were_asked_about(opened: Ledger, clock: Clock) -> None:
    ask(opened, questions(s1="x"))
    approve_first(opened, YES, *opened.open_reviews({NIGHTLY}))
    before = opened.open_reviews({NIGHTLY})[0].number
    for seen in ("z", "x"):
        clock.forward(AN_HOUR)
        ask(opened, questions(s1=seen))
        (now,) = opened.open_reviews({NIGHTLY})
        assert (now.seen, now.first_by) == (seen, None)
    approve_first(opened, ReviewAnswer(True, "grace", "seen"), now)
    closed, again = opened.review(before), opened.review(now.number)
    assert closed is not None
    assert again is not None
    assert (closed.first_by, again.first_by) == ("ada", "grace")


@pytest.mark.parametrize("given", [ReviewAnswer(True, "", "seen"), ReviewAnswer(False, "ada", " ")])
def test_an_answer_needs_a_person_and_a_reason(opened: Ledger, given: ReviewAnswer) -> None:
    ask(opened, questions(s1="x"))
    with pytest.raises(LedgerError, match="needs a person and a reason"):
        answer(opened, given, *opened.open_reviews({NIGHTLY}))


def test_who_opened_what_is_an_event_each_once(opened: Ledger) -> None:
    ask(opened, questions(s1="x", s2="y"))
    first, second = (one.number for one in opened.open_reviews({NIGHTLY}))
    for number, person in ((first, "ada"), (first, "ada"), (first, "grace"), (second, "ada")):
        opened.open_review(number, person)
    assert opened.opened_by("ada", [first, second]) == {first, second}
    assert opened.opened_by("grace", [first, second]) == {first}
    assert events(opened) == [("open", "s1", "ada"), ("open", "s1", "grace"), ("open", "s2", "ada")]
    assert opened.open_reviews({NIGHTLY})[0].opened_at is not None


def test_groups_are_by_pipeline_reason_and_site(opened: Ledger) -> None:
    ask(opened, questions(site="lakeview", s1="x", s2="y"))
    ask(opened, questions(reason="service_warning", s3="x"), decided=uids("s3"))
    found = {(one.reason, one.site): one.reviews for one in opened.review_groups({NIGHTLY})}
    assert found == {("truncated", "lakeview"): 2, ("service_warning", ""): 1}
    assert [one.subject for one in opened.open_reviews({NIGHTLY}, reason="truncated", site="lakeview")] == ["s1", "s2"]
    assert opened.review_groups({"other"}) == []


def test_a_reminder_and_an_escalation_are_due_until_people_are_told(opened: Ledger, clock: Clock) -> None:
    def due() -> tuple[list[tuple[str, int]], ...]:
        found = opened.find_overdue(NIGHTLY, 24 * AN_HOUR, 72 * AN_HOUR)
        return tuple([(one.reason, one.reviews) for one in groups] for groups in (found.reminded, found.escalated))

    def tell() -> None:
        opened.mark_overdue(NIGHTLY, opened.find_overdue(NIGHTLY, 24 * AN_HOUR, 72 * AN_HOUR))

    ask(opened, questions(s1="x", s2="y"))
    assert due() == ([], [])
    clock.forward(25 * AN_HOUR)
    assert due() == due() == ([("truncated", 2)], [])
    tell()
    assert due() == ([], [])
    clock.forward(48 * AN_HOUR)
    assert due() == ([], [("truncated", 2)])
    tell()
    assert due() == ([], [])
    ask(opened, questions(s3="x"), decided=uids("s3"))
    clock.forward(300 * AN_HOUR)
    answer(opened, YES, *opened.open_reviews({NIGHTLY}))
    assert due() == ([], [])


def test_what_becomes_due_while_people_are_told_is_told_next(opened: Ledger, clock: Clock) -> None:
    ask(opened, questions(s1="x"))
    clock.forward(24 * AN_HOUR)
    ask(opened, questions(s2="x"), decided=uids("s2"))
    told = opened.find_overdue(NIGHTLY, 24 * AN_HOUR, 72 * AN_HOUR)
    clock.forward(24 * AN_HOUR)
    opened.mark_overdue(NIGHTLY, told)
    (left,) = opened.find_overdue(NIGHTLY, 24 * AN_HOUR, 72 * AN_HOUR).reminded
    assert (left.reviews, [one.reviews for one in told.reminded]) == (1, [1])


def test_whether_a_data_store_has_open_reviews(opened: Ledger) -> None:
    assert not opened.has_open_reviews(STORE)
    ask(opened, questions(s1="x"))
    assert opened.has_open_reviews(STORE)
    assert not opened.has_open_reviews("f" * 32)
