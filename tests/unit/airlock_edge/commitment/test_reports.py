"""Results are sent to peers: one that comes back while a try fails does not wait for the next."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from airlock_edge.commitment.information import Reference, Request
from airlock_edge.commitment.reports import Reports, UnreachableError
from airlock_edge.metrics import Metrics
from airlock_edge.settings import Peer
from tests.unit.airlock_edge.commitment.test_orders import edge_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from airlock_edge.commitment.store import CommitmentStore, Kept
    from airlock_edge.services import EventReport


class Open:
    """An association whose peer takes every result."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send_event(self, event: EventReport) -> bool:
        self.sent.append(event.event_type_id)
        event.note_response(0x0000)
        return True


@pytest.fixture
def reports(store: CommitmentStore, tmp_path: Path) -> Iterator[Reports]:
    store.add("PACS", Request("1.9", (Reference("1.2", "1.1"),)))
    store.decide(1, [None])
    made = Reports(edge_settings(tmp_path), store, Metrics(), lambda: None)
    yield made
    made.close()


def serve(reports: Reports, store: CommitmentStore) -> None:
    reports._serve("PACS", store.list_due())


def test_a_result_waits_after_a_try_that_failed(reports: Reports, store: CommitmentStore) -> None:
    serve(reports, store)
    assert [one.attempts for one in store.list_in("decided")] == [1]
    assert store.list_due() == []


def test_a_peer_that_comes_while_a_try_fails_has_its_result_at_once(
    reports: Reports, store: CommitmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Open()

    def fail(*_: Any) -> list[Any]:
        reports.note_channel("PACS", channel)
        raise UnreachableError("it was away a moment ago")

    monkeypatch.setattr(reports, "_send_on_new_association", fail)
    serve(reports, store)
    assert len(store.list_due()) == 1
    serve(reports, store)
    assert channel.sent == [1]
    assert [one.state for one in store.list_in("reported")] == ["reported"]


def test_a_result_that_is_taken_while_others_are_looked_for_is_sent_once(
    reports: Reports, store: CommitmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, list_due = Open(), store.list_due
    reports.note_channel("PACS", channel)
    reports._served.add("PACS")  # another thread serves it, and ends right after the look

    def list_and_serve() -> list[Kept]:
        found = list_due()
        reports._serve("PACS", found)
        return found

    monkeypatch.setattr(store, "list_due", list_and_serve)
    reports.send_due()
    reports.close()
    assert len(channel.sent) == 1


def test_an_answer_that_cannot_be_written_ends_no_association(
    reports: Reports, store: CommitmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes in the thread of the peer's association, which may bring images again by then."""
    channel = Open()
    reports.note_channel("PACS", channel)
    with monkeypatch.context() as patch:
        patch.setattr(store, "note_reported", raise_full)
        assert not reports._send_on_channel(store.list_due()[0])
    reports.note_channel("PACS", channel)
    serve(reports, store)
    assert [one.state for one in store.list_in("reported")] == ["reported"]


def raise_full(_: int) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def test_a_certificate_is_compared_with_an_ipv6_address_without_brackets(
    reports: Reports, store: CommitmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer.model_validate({"ae_title": "PACS", "addresses": ["::1"], "reports_to": "[::1]:9", "reports_tls": True})
    hosts: list[str] = []
    monkeypatch.setattr(reports, "_make_tls", lambda _, host: hosts.append(host))
    with pytest.raises(UnreachableError):
        reports._send_on_new_association(peer, store.list_due())
    assert hosts == ["::1"]
