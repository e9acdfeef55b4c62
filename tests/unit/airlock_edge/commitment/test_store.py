"""Requests are kept until they are reported, and repeated ones are recognized."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from airlock_edge.book import Received, State
from airlock_edge.commitment.information import Reference, Request
from airlock_edge.commitment.store import CommitmentStore, Told
from airlock_edge.commitment.store import State as Of

if TYPE_CHECKING:
    from pathlib import Path

    from airlock_edge.book import Book
    from tests.unit.airlock_edge.commitment.conftest import Machine

CT = "1.2.840.10008.5.1.4.1.1.2"
ONE = Request("1.9", (Reference(CT, "1.1"), Reference(CT, "1.2")))


def received(content: str, peer: str, state: State = State.DURABLE) -> Received:
    return Received(f"k{content}", "1.1", CT, "1.2", peer, "aaaa", content, 5, state, "", "")


def decided(store: CommitmentStore) -> int:
    """Let a request be decided; return its number."""
    store.add("PACS", ONE)
    (request,) = store.list_in(Of.WAITING)
    store.decide(request.number, [None, 0x0110])
    return request.number


def answered(store: CommitmentStore) -> int:
    """Let a request be reported; return its number."""
    number = decided(store)
    store.note_reported(number)
    return number


def test_a_request_is_flushed_when_it_is_added(store: CommitmentStore, tmp_path: Path, machine: Machine) -> None:
    store.add("PACS", ONE)
    other = CommitmentStore(tmp_path, machine.clock())
    assert [one.transaction_uid for one in other.list_in(Of.WAITING)] == ["1.9"]
    assert other.references(1) == list(ONE.references)
    other.close()


def test_the_same_request_again_is_known_and_another_one_may_not_have_its_uid(store: CommitmentStore) -> None:
    assert store.add("PACS", ONE) == "new"
    assert store.add("PACS", ONE) == "known"
    assert store.add("PACS", Request("1.9", ONE.references[:1])) == "taken"
    assert store.add("OTHER", ONE) == "new", "each peer has Transaction UIDs of its own"
    assert len(store.list_in(Of.WAITING)) == 2


def test_a_repeated_request_gets_the_same_result_again(store: CommitmentStore) -> None:
    number = answered(store)
    assert store.list_due() == []
    store.add("PACS", ONE)
    assert [one.number for one in store.list_due()] == [number]
    assert [one.failure for one in store.references(number)] == [None, 0x0110]


def test_a_decided_request_is_never_decided_again(store: CommitmentStore) -> None:
    number = answered(store)
    store.decide(number, [None, None])
    assert [one.failure for one in store.references(number)] == [None, 0x0110]


def test_a_result_is_due_after_its_pause_or_when_the_peer_is_there(store: CommitmentStore, machine: Machine) -> None:
    store.add("PACS", ONE)
    store.decide(1, [None, None])
    store.postpone(1, 60)
    assert store.list_due() == []
    machine.seconds += 60
    (due,) = store.list_due()
    assert due.attempts == 1
    store.postpone(1, 60)
    store.hurry("PACS")
    assert len(store.list_due()) == 1


def test_old_requests_are_deleted_once_they_are_reported(store: CommitmentStore, machine: Machine) -> None:
    answered(store)
    store.add("PACS", Request("1.10", ONE.references))
    assert store.prune(100) == 0
    machine.seconds += 101
    assert store.prune(100) == 1
    assert [one.transaction_uid for one in store.list_in(*Of)] == ["1.10"]


def test_old_requests_whose_result_no_peer_took_are_deleted_too(store: CommitmentStore, machine: Machine) -> None:
    store.give_up(decided(store))
    machine.seconds += 101
    assert store.prune(100) == 1
    assert store.references(1) == []


def test_a_result_that_the_peer_took_at_last_is_not_given_up(store: CommitmentStore) -> None:
    number = answered(store)
    store.note_reported(number)
    store.give_up(number)
    assert [one.state for one in store.list_in(*Of)] == [Of.REPORTED]


def test_the_newest_content_of_each_peer_is_looked_at(book: Book, store: CommitmentStore) -> None:
    book.add([received("a", "PACS"), received("b", "PACS", State.SPOOLED), received("c", "CT")])
    book.add([received("b", "PACS")], arrived=False)
    store.add("PACS", ONE)
    known, unknown = store.look(1)
    assert sorted((one.is_own, one.is_durable) for one in known.contents) == [(False, True), (True, True)]
    assert (known.study_key, unknown.contents, unknown.has_other_class) == ("aaaa", (), False)
    book.add([received("a", "PACS")])
    assert len(store.look(1)[0].contents) == 2


def test_an_object_that_was_lost_from_the_book_by_a_kill_is_the_newest(book: Book, store: CommitmentStore) -> None:
    """It was acknowledged before the kill, and its upload brings its row."""
    book.add([received("a", "PACS")])
    book.add([received("b", "PACS")], arrived=False)
    store.note_told([Told("ka", "imported", "held", None, (1, 1))])
    store.add("PACS", ONE)
    assert [one.told for one in store.look(1)[0].contents] == [None]


def test_a_change_of_the_book_or_of_a_request_is_seen(book: Book, store: CommitmentStore) -> None:
    before = store.version()
    assert store.version() == before
    book.add([received("a", "PACS")])
    of_book = store.version()
    assert of_book != before
    store.add("PACS", ONE)
    assert store.version() != of_book


def test_a_book_that_writes_does_not_wait_for_a_request(book: Book, store: CommitmentStore) -> None:
    with store._transaction():
        book.add([received("a", "PACS")])
    assert book.count() == 1


def test_a_disk_that_refuses_leaves_no_half_of_a_request(store: CommitmentStore) -> None:
    store._writer.execute("PRAGMA max_page_count = 1")
    store._writer.execute(f"PRAGMA max_page_count = {store._writer.execute('PRAGMA page_count').fetchone()[0]}")
    many = Request("1.11", tuple(Reference(CT, f"1.{number}") for number in range(20_000)))
    with pytest.raises(sqlite3.Error):
        store.add("PACS", many)
    assert store.list_in(*Of) == []
