"""The file that a Celery worker touches with each heartbeat: that of Celery's own heart, on a clock of the test."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
from celery.signals import heartbeat_sent
from celery.worker.heartbeat import Heart

from airlock_tasks import worker_heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Events:
    """What a heart sends its heartbeats with, to a broker that answers."""

    enabled = True

    def __init__(self) -> None:
        self.on_enabled, self.on_disabled, self.sent = set[Any](), set[Any](), list[str]()

    def send(self, event: str, **_: Any) -> None:
        self.sent.append(event)


class Clock:
    """Calls what is to be repeated once, at once."""

    def call_repeatedly(self, seconds: float, call: Any, arguments: tuple[Any, ...]) -> None:
        call(*arguments)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    before = list(heartbeat_sent.receivers)
    yield
    heartbeat_sent.receivers = before


def beat() -> list[str]:
    events = Events()
    Heart(Clock(), events).start()
    return events.sent


def test_each_heartbeat_touches_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "heartbeat"
    monkeypatch.setenv("AIRLOCK_WORKER_HEARTBEAT", str(file))
    importlib.reload(worker_heartbeat)
    assert not file.exists()
    assert beat() == ["worker-online", "worker-heartbeat"]
    assert file.exists()


def test_without_the_variable_a_worker_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRLOCK_WORKER_HEARTBEAT", raising=False)
    before = len(heartbeat_sent.receivers or ())
    importlib.reload(worker_heartbeat)
    assert len(heartbeat_sent.receivers or ()) == before
    assert beat() == ["worker-online", "worker-heartbeat"]
