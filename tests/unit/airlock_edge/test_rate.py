"""The limit of bytes in a second, for all associations together."""

from __future__ import annotations

from airlock_edge import rate as module
from airlock_edge.rate import Rate


def test_bytes_wait_until_those_before_them_are_paid_for(monkeypatch) -> None:
    now, pauses = [100.0], []
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "sleep", pauses.append)
    limit = Rate(1000)
    for number in (500, 500, 2000):
        limit.take(number)
    assert pauses == [0.5, 1.0, 3.0]
    now[0] = 200.0
    limit.take(100)
    assert [round(pause, 6) for pause in pauses[3:]] == [0.1]


def test_without_a_limit_nothing_waits(monkeypatch) -> None:
    monkeypatch.setattr(module, "sleep", lambda _: 1 / 0)
    Rate(None).take(10**12)
