"""What a run tells of is told again by its retry, and by no other run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airlock.ledger import MessageState
from tests.unit.airlock.ledger.samples import NIGHTLY, begin
from tests.unit.airlock.ledger.test_outbox import due, messages

if TYPE_CHECKING:
    from airlock.ledger import Ledger

ASSET = "asset:studies|store"
NOW = datetime(2100, 1, 1, tzinfo=UTC)


def told(ledger: Ledger, run: str) -> list[str]:
    return ledger.mark_announced(NIGHTLY, ASSET, run, NOW)


def test_each_subject_is_told_once_and_again_by_a_retry(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    ledger.enqueue(NIGHTLY, "a", ASSET, messages(("k2", 1, "d2"), ("k1", 1, "d1"), ("k1", 2, "d3")))
    assert told(ledger, "a") == ["k1", "k2"]
    assert told(ledger, "a") == ["k1", "k2"]
    assert told(ledger, "b") == []
    assert set(ledger.messages_by_state(NIGHTLY)[ASSET]) == {MessageState.SENT}


def test_what_an_earlier_run_did_not_tell_of_the_next_does(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    ledger.enqueue(NIGHTLY, "a", ASSET, messages(("k1", 1, "d1")))
    ledger.enqueue(NIGHTLY, "b", ASSET, messages(("k2", 1, "d2")))
    assert told(ledger, "b") == ["k1", "k2"]
    assert told(ledger, "a") == []


def test_a_later_revision_is_told_by_the_run_that_brings_it(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    ledger.enqueue(NIGHTLY, "a", ASSET, messages(("k1", 1, "d1")))
    told(ledger, "a")
    ledger.enqueue(NIGHTLY, "b", ASSET, messages(("k1", 2, "d2")))
    assert told(ledger, "b") == ["k1"]


def test_other_destinations_are_left_alone(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.enqueue(NIGHTLY, "a", "s3://contracts/imaging/", messages(("k1", 1, "d1")))
    assert told(ledger, "a") == []
    assert len(due(ledger)) == 1
