from __future__ import annotations

import asyncio
import time

from healthaws.triggers.pause import PauseTrigger

EVENT = {"refused": {"count": 3, "since": 1.5}}


async def event_of(trigger: PauseTrigger) -> object:
    return (await anext(trigger.run())).payload


def test_serialization_round_trip() -> None:
    path, kwargs = PauseTrigger(12.5, EVENT).serialize()
    assert path == "healthaws.triggers.pause.PauseTrigger"
    assert PauseTrigger(**kwargs).serialize() == (path, kwargs)


def test_fires_at_the_time_with_the_event() -> None:
    until = time.time() + 0.3
    assert asyncio.run(event_of(PauseTrigger(until, EVENT))) == EVENT
    assert time.time() >= until - 0.01


def test_fires_at_once_when_the_time_has_passed() -> None:
    started = time.monotonic()
    asyncio.run(event_of(PauseTrigger(time.time() - 100, EVENT)))
    assert time.monotonic() - started < 5
