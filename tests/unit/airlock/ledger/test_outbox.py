from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger import Ledger, LedgerError, MessageState, OutboxMessage
from airlock.ledger.__main__ import main
from airlock.ledger.outbox import LEASE, MESSAGES, Queued
from tests.unit.airlock.ledger.samples import NIGHTLY, begin

if TYPE_CHECKING:
    from tests.unit.airlock.ledger.conftest import Clock

TO = "s3://contracts/imaging/"
MINUTE = timedelta(minutes=1)


def messages(*rows: tuple[str, int, str]) -> pl.DataFrame:
    return pl.DataFrame([(*row, f"s3://workspace/{row[2]}.json") for row in rows], schema=MESSAGES, orient="row")


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    begin(ledger, "a", "b")
    return ledger


def due(ledger: Ledger, limit: int = 100, owner: str | None = None) -> list[OutboxMessage]:
    return ledger.lease_due(NIGHTLY, TO, limit, owner)


def names(found: list[OutboxMessage]) -> list[tuple[str, int]]:
    return [(message.subject_key, message.revision) for message in found]


def test_a_content_is_queued_once_per_destination(opened: Ledger) -> None:
    assert opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k2", 1, "d2"))) == Queued(2, 0)
    assert opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k3", 1, "d3"))) == Queued(1, 0)
    assert opened.enqueue(NIGHTLY, "b", TO, messages(("k1", 1, "d1"))) == Queued(0, 0)
    assert opened.enqueue(NIGHTLY, "b", TO, messages(("k1", 2, "d1"))) == Queued(0, 0), "it has this content"
    assert opened.enqueue(NIGHTLY, "a", "s3://elsewhere/", messages(("k1", 1, "d1"))) == Queued(1, 0)
    assert names(due(opened)) == [("k1", 1), ("k2", 1), ("k3", 1)]


def test_a_message_has_all_that_sending_it_needs(opened: Ledger) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    (found,) = due(opened)
    assert found == OutboxMessage(
        found.id, NIGHTLY, TO, "k1", "a", 1, "d1", "s3://workspace/d1.json", 0, found.queued_at
    )


def test_a_sent_message_is_never_due_again_nor_queued_again(opened: Ledger) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    (found,) = due(opened)
    opened.mark_sent(found.id)
    opened.mark_sent(found.id)
    opened.mark_failed(found.id, "too late to fail", MINUTE)
    assert opened.enqueue(NIGHTLY, "b", TO, messages(("k1", 1, "d1"))).queued == 0
    assert due(opened) == []
    assert opened.messages_by_state(NIGHTLY) == {TO: {MessageState.SENT: 1}}


def test_a_failed_message_waits_for_its_time(opened: Ledger, clock: Clock) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    opened.mark_failed(due(opened, owner="a")[0].id, "503", MINUTE, "a")
    assert due(opened, owner="b") == []
    clock.forward(MINUTE)
    (again,) = due(opened, owner="b")
    assert again.attempts == 1
    assert opened.messages_by_state(NIGHTLY, "a") == {TO: {MessageState.PENDING: 1}}
    assert opened.messages_by_state(NIGHTLY, "b") == {}


def test_a_later_revision_waits_for_the_earlier_one_of_its_subject(opened: Ledger) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k2", 1, "d9")))
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 2, "d2")))
    assert names(due(opened)) == [("k1", 1), ("k2", 1), ("k1", 2)]
    opened.mark_failed(due(opened)[0].id, "503", MINUTE)
    assert names(due(opened)) == [("k2", 1)]


def test_the_limit_takes_the_oldest(opened: Ledger) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k2", 1, "d2"), ("k3", 1, "d3")))
    assert names(due(opened, limit=2)) == [("k1", 1), ("k2", 1)]


def test_two_senders_do_not_get_the_same_message(opened: Ledger, clock: Clock) -> None:
    """Two tries of one task are two senders: Airflow may have lost the first one while it sends."""
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k2", 1, "d2")))
    assert names(due(opened, limit=1, owner="a/1")) == [("k1", 1)]
    assert names(due(opened, owner="a/2")) == [("k2", 1)]
    assert names(due(opened, owner="a/1")) == [("k1", 1)]
    clock.forward(LEASE)
    assert names(due(opened, owner="a/2")) == [("k1", 1), ("k2", 1)], "the first is taken for dead"


def test_what_a_lost_try_says_late_does_not_end_the_lease_of_its_retry(opened: Ledger, clock: Clock) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    (found,) = due(opened, owner="a/1")
    clock.forward(LEASE)
    due(opened, owner="a/2")
    opened.mark_failed(found.id, "timeout", MINUTE, "a/1")
    opened.mark_given_up(found.id, "http_400", "a/1")
    assert due(opened, owner="b") == []
    opened.mark_sent(found.id)
    assert opened.messages_by_state(NIGHTLY, "a") == {TO: {MessageState.SENT: 1}}, "it has arrived all the same"


def test_other_pipelines_do_not_send_it(opened: Ledger) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    assert opened.lease_due("weekly", TO, 10) == []
    assert opened.lease_due(NIGHTLY, "s3://elsewhere/", 10) == []


def test_two_pipelines_with_one_destination_send_a_content_once(opened: Ledger) -> None:
    begin(opened, "w", pipeline="weekly")
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    assert opened.enqueue("weekly", "w", TO, messages(("k1", 1, "d1"))).queued == 0


def test_two_contents_cannot_have_one_revision_and_the_others_are_queued(opened: Ledger) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    assert opened.enqueue(NIGHTLY, "b", TO, messages(("k0", 1, "d0"), ("k1", 1, "d2"))) == Queued(1, 1)
    assert [(one.subject_key, one.content_digest) for one in due(opened)] == [("k1", "d1"), ("k0", "d0")]


def test_an_unknown_message_is_refused(opened: Ledger) -> None:
    with pytest.raises(LedgerError, match="has no message 7"):
        opened.mark_sent(7)
    with pytest.raises(LedgerError, match="has no message 7"):
        opened.mark_failed(7, "503", MINUTE)


class TestGivenUp:
    def test_it_is_neither_due_nor_lost_and_the_next_revision_goes_on(self, opened: Ledger) -> None:
        opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k1", 2, "d2")))
        opened.mark_given_up(due(opened)[0].id, "http_400")
        assert names(due(opened)) == [("k1", 2)]
        assert opened.messages_by_state(NIGHTLY) == {TO: {MessageState.PENDING: 1, MessageState.FAILED: 1}}
        assert opened.enqueue(NIGHTLY, "b", TO, messages(("k1", 1, "d1"))).queued == 0

    def test_it_is_due_again_when_somebody_requeues_it(self, opened: Ledger) -> None:
        opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
        opened.enqueue(NIGHTLY, "a", "s3://elsewhere/", messages(("k1", 1, "d1")))
        (before,) = due(opened)
        opened.mark_given_up(before.id, "http_400")
        assert opened.requeue(NIGHTLY, "s3://elsewhere/") == 1
        assert due(opened) == []
        assert opened.requeue(NIGHTLY, TO) == 1
        (again,) = due(opened)
        assert (again.id, again.attempts) == (before.id, 0)
        assert again.queued_at > before.queued_at

    def test_it_stays_so_where_a_later_revision_was_sent(self, opened: Ledger) -> None:
        opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k1", 2, "d2")))
        first, second = due(opened)
        opened.mark_given_up(first.id, "http_400")
        opened.mark_sent(second.id)
        assert opened.requeue(NIGHTLY) == 0
        assert opened.messages_by_state(NIGHTLY, "a") == {TO: {MessageState.SENT: 1, MessageState.FAILED: 1}}
        assert opened.messages_by_state(NIGHTLY, "b") == {}

    def test_what_was_sent_cannot_fail(self, opened: Ledger) -> None:
        opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
        (found,) = due(opened)
        opened.mark_sent(found.id)
        opened.mark_given_up(found.id, "too late")
        assert opened.messages_by_state(NIGHTLY) == {TO: {MessageState.SENT: 1}}


def test_what_waits_for_its_next_attempt_is_due_at_once_when_requeued(opened: Ledger) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    opened.mark_failed(due(opened)[0].id, "503", MINUTE)
    with pytest.raises(LedgerError, match="no run of pipeline 'nigthly': did you mean nightly"):
        opened.requeue("nigthly")
    assert opened.requeue(NIGHTLY) == 1
    assert names(due(opened)) == [("k1", 1)]


def test_a_sender_that_stops_hands_back_what_it_has_not_tried(opened: Ledger) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    due(opened, owner="a")
    opened.return_leases(NIGHTLY, TO, "b")
    assert due(opened, owner="b") == []
    opened.return_leases(NIGHTLY, TO, "a")
    assert names(due(opened, owner="b")) == [("k1", 1)]


def test_a_sender_that_lives_keeps_what_takes_longer_than_a_lease(opened: Ledger, clock: Clock) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    due(opened, owner="a")
    clock.forward(MINUTE)
    opened.renew_leases(NIGHTLY, TO, "b")
    opened.renew_leases(NIGHTLY, TO, "a")
    clock.forward(LEASE - MINUTE)
    assert due(opened, owner="b") == []
    clock.forward(MINUTE)
    assert names(due(opened, owner="b")) == [("k1", 1)]


def test_what_failed_since_a_sender_began_is_not_for_its_try(opened: Ledger, clock: Clock) -> None:
    """Nor is what has to wait for it."""
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k1", 2, "d3"), ("k2", 1, "d2")))
    since = opened.clock()
    clock.forward(MINUTE)
    opened.mark_failed(due(opened)[0].id, "503", timedelta(0))
    assert names(opened.lease_due(NIGHTLY, TO, 10, since=since)) == [("k2", 1)]
    assert names(due(opened)) == [("k1", 1), ("k1", 2), ("k2", 1)]


def test_requeue_is_a_command(opened: Ledger, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
    opened.mark_given_up(due(opened)[0].id, "http_400")
    assert main(["requeue", "--url", url, "--pipeline", NIGHTLY, "--destination", "s3://elsewhere/"]) == 0
    assert main(["requeue", "--url", url, "--pipeline", NIGHTLY]) == 0
    said = capsys.readouterr().out
    assert "0 messages are due" in said
    assert "1 messages are due; the pipeline's next run, or its cleared route task, sends them" in said
    assert main(["requeue", "--url", url, "--pipeline", NIGHTLY, "--match-again"]) == 0
    assert "matches 0 released contracts with its routes" in capsys.readouterr().out
    for wrong, fault in (
        ([], "requeue needs --pipeline"),
        (["--pipeline", NIGHTLY, "--match-again", "--destination", TO], "omit --destination"),
    ):
        with pytest.raises(SystemExit):
            main(["requeue", "--url", url, *wrong])
        assert fault in capsys.readouterr().err


def send(ledger: Ledger, *senders: tuple[str, str]) -> list[int]:
    """Send what is due to each pipeline's run in turn, and return the revisions in the order of sending."""
    sent = []
    for whose, owner in senders:
        for message in ledger.lease_due(whose, TO, 10, owner):
            ledger.mark_sent(message.id)
            sent.append(message.revision)
    return sent


class TestRevisions:
    """A destination gets the revisions of a subject in order, whoever sends them."""

    def test_a_later_revision_of_another_pipeline_does_not_overtake_the_earlier_one(self, opened: Ledger) -> None:
        begin(opened, "w", pipeline="weekly")
        opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
        opened.enqueue("weekly", "w", TO, messages(("k1", 2, "d2")))
        assert send(opened, ("weekly", "w"), (NIGHTLY, "a"), ("weekly", "w")) in ([1, 2], [2])

    def test_an_earlier_revision_that_is_queued_late_is_not_sent_after_the_later_one(self, opened: Ledger) -> None:
        opened.enqueue(NIGHTLY, "b", TO, messages(("k1", 2, "d2")))
        sent = send(opened, (NIGHTLY, "b"))
        opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
        assert [*sent, *send(opened, (NIGHTLY, "a"))] == [2]

    def test_a_content_that_returns_after_another_one_is_sent_again(self, opened: Ledger) -> None:
        sent = []
        for revision, content in enumerate("ABA", start=1):
            opened.enqueue(NIGHTLY, "a", TO, messages(("k1", revision, content)))
            sent += send(opened, (NIGHTLY, "a"))
        assert sent == [1, 2, 3]

    def test_it_is_said_that_a_revision_comes_too_late(self, opened: Ledger) -> None:
        opened.enqueue(NIGHTLY, "b", TO, messages(("k1", 2, "d2")))
        assert opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k2", 1, "d9"))) == Queued(1, 1)

    def test_a_later_revision_waits_while_another_pipeline_sends_the_earlier_one(self, opened: Ledger) -> None:
        begin(opened, "w", pipeline="weekly")
        opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1")))
        opened.enqueue("weekly", "w", TO, messages(("k1", 2, "d2")))
        (first,) = due(opened, owner="a")
        assert opened.lease_due("weekly", TO, 10, "w") == []
        opened.mark_sent(first.id)
        assert names(opened.lease_due("weekly", TO, 10, "w")) == [("k1", 2)]

    def test_what_another_pipeline_has_overtaken_is_skipped_and_stays_in_the_books(self, opened: Ledger) -> None:
        begin(opened, "w", pipeline="weekly")
        opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k2", 1, "d9")))
        opened.enqueue("weekly", "w", TO, messages(("k1", 2, "d2")))
        assert names(opened.lease_due("weekly", TO, 10, "w")) == [("k1", 2)]
        assert opened.messages_by_state(NIGHTLY, "a") == {TO: {MessageState.SKIPPED: 1, MessageState.PENDING: 1}}

    def test_what_was_given_up_is_not_requeued_while_its_later_revision_is_sent(self, opened: Ledger) -> None:
        opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1, "d1"), ("k1", 2, "d2")))
        opened.mark_given_up(due(opened)[0].id, "http_400")
        due(opened, owner="a")
        assert opened.requeue(NIGHTLY) == 1
        assert opened.messages_by_state(NIGHTLY) == {TO: {MessageState.PENDING: 1, MessageState.FAILED: 1}}


class TestSettling:
    """Revisions of a subject within some minutes are one."""

    TEN = timedelta(minutes=10)

    def enqueue(self, ledger: Ledger, *rows: tuple[str, int, str], settle: timedelta = TEN) -> None:
        ledger.enqueue(NIGHTLY, "a", TO, messages(*rows), not_before=ledger.clock() + settle)

    def test_a_later_revision_takes_the_place_of_one_that_settles_and_does_not_settle_longer(
        self, opened: Ledger, clock: Clock
    ) -> None:
        self.enqueue(opened, ("k1", 1, "d1"), ("k2", 1, "d9"))
        clock.forward(9 * MINUTE)
        self.enqueue(opened, ("k1", 2, "d2"))
        assert due(opened) == []
        assert opened.time_until_free(NIGHTLY, [TO]) == MINUTE
        clock.forward(MINUTE)
        assert names(due(opened)) == [("k2", 1), ("k1", 2)]
        assert opened.messages_by_state(NIGHTLY, "a") == {TO: {MessageState.SKIPPED: 1, MessageState.PENDING: 2}}

    def test_of_several_at_once_the_last_one_counts(self, opened: Ledger, clock: Clock) -> None:
        self.enqueue(opened, ("k1", 1, "d1"), ("k1", 2, "d2"))
        clock.forward(self.TEN)
        assert names(due(opened)) == [("k1", 2)]

    def test_a_revision_that_has_settled_is_sent_before_the_next(self, opened: Ledger, clock: Clock) -> None:
        self.enqueue(opened, ("k1", 1, "d1"))
        clock.forward(self.TEN)
        self.enqueue(opened, ("k1", 2, "d2"))
        assert names(due(opened)) == [("k1", 1)]
        clock.forward(self.TEN)
        assert names(due(opened)) == [("k1", 1), ("k1", 2)]

    def test_a_shorter_time_counts_at_once(self, opened: Ledger) -> None:
        self.enqueue(opened, ("k1", 1, "d1"))
        self.enqueue(opened, ("k1", 2, "d2"), settle=timedelta(0))
        assert names(due(opened)) == [("k1", 2)]

    def test_a_content_that_is_back_before_the_other_was_sent_is_sent(self, opened: Ledger, clock: Clock) -> None:
        self.enqueue(opened, ("k1", 1, "A"), settle=timedelta(0))
        opened.mark_sent(due(opened)[0].id)
        self.enqueue(opened, ("k1", 2, "B"))
        self.enqueue(opened, ("k1", 3, "A"))
        clock.forward(self.TEN)
        assert names(due(opened)) == [("k1", 3)]

    def test_what_settles_does_not_count_as_overdue(self, opened: Ledger, clock: Clock) -> None:
        self.enqueue(opened, ("k1", 1, "d1"))
        assert opened.overdue_messages(NIGHTLY, "a") == {}
        clock.forward(self.TEN)
        assert opened.overdue_messages(NIGHTLY, "a") == {TO: 1}
        assert opened.overdue_messages(NIGHTLY, "b") == {}

    def test_what_another_try_has_leased_is_free_when_its_lease_ends(self, opened: Ledger, clock: Clock) -> None:
        self.enqueue(opened, ("k1", 1, "d1"), settle=timedelta(0))
        assert opened.time_until_free(NIGHTLY, [TO]) is None
        due(opened, owner="a/1")
        clock.forward(MINUTE)
        assert opened.time_until_free(NIGHTLY, [TO]) == LEASE - MINUTE
        assert opened.time_until_free(NIGHTLY, [TO], leased=False) is None
        assert opened.time_until_free(NIGHTLY, ["s3://elsewhere/"]) is None


def test_a_ledgers_clock_is_its_databases(opened: Ledger) -> None:
    assert opened.clock().tzinfo is not None
