"""Which requests are taken, and with which status the others are refused."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from airlock_edge.book import Book
from airlock_edge.commitment.information import PUSH_MODEL_INSTANCE, encode_information
from airlock_edge.commitment.service import Commitments, after_of, offers_commitment
from airlock_edge.metrics import Metrics
from airlock_edge.negotiation import COMMITMENT
from airlock_edge.services import ActionRequest, Caller
from tests.unit.airlock_edge.commitment.test_information import action
from tests.unit.airlock_edge.commitment.test_orders import edge_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock_edge.services import EventReport
    from airlock_edge.settings import Edge

IMPLICIT = "1.2.840.10008.1.2"


class Closed:
    """An association that has ended."""

    def send_event(self, event: EventReport) -> bool:
        return False


REQUEST = ActionRequest(
    caller=Caller("PACS", "127.0.0.1", 1),
    channel=Closed(),
    sop_class_uid=COMMITMENT,
    sop_instance_uid=PUSH_MODEL_INSTANCE,
    action_type_id=1,
    information=encode_information(action("1.9", "1.1"), IMPLICIT),
    transfer_syntax=IMPLICIT,
)


def without_queue(settings: Edge) -> Edge:
    return settings.model_copy(update={"commitment": settings.commitment.model_copy(update={"queue_url": None})})


@pytest.fixture
def settings(tmp_path: Path) -> Edge:
    return edge_settings(tmp_path)


@pytest.fixture
def service(settings: Edge) -> Iterator[Commitments]:
    Book(settings.state).close()
    yield (made := Commitments(settings, Metrics()))
    made.store.close()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0x0000),
        ({"sop_class_uid": "1.2.3"}, 0x0118),
        ({"sop_instance_uid": "1.2.3"}, 0x0112),
        ({"action_type_id": 2}, 0x0123),
        ({"information": b""}, 0x0115),
        ({"information": b"\0" * 100}, 0x0115),
    ],
)
def test_a_request_gets_the_status_that_the_conformance_statement_says(
    service: Commitments, changes: dict[str, Any], status: int
) -> None:
    assert service(replace(REQUEST, **changes)) == status
    assert len(service.store.list_in("waiting")) == (status == 0)


def test_a_request_that_cannot_be_written_is_refused(
    service: Commitments, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(service.store, "add", fail)
    assert service(REQUEST) == 0x0213
    assert "cannot be written" in caplog.text


def test_without_a_queue_only_what_is_durable_can_be_committed(settings: Edge) -> None:
    assert after_of(settings, "MODALITY") == "durable"
    assert offers_commitment(without_queue(settings))
    Book(settings.state).close()
    service = Commitments(without_queue(settings), Metrics())
    assert service(REQUEST) == 0x0124
    assert service(replace(REQUEST, caller=Caller("MODALITY", "127.0.0.1", 2))) == 0x0000
    service.store.close()


def test_without_a_queue_and_such_a_peer_nothing_is_offered(settings: Edge) -> None:
    peers = tuple(peer.model_copy(update={"commitment_after": None}) for peer in settings.peers)
    assert not offers_commitment(without_queue(settings.model_copy(update={"peers": peers})))
    assert offers_commitment(settings)


def test_a_request_is_refused_while_the_book_does_not_take_what_was_received(settings: Edge) -> None:
    Book(settings.state).close()
    service = Commitments(settings, Metrics(), flush_rows=lambda: False)
    assert service(REQUEST) == 0x0213
    service.store.close()
