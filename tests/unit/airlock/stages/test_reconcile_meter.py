"""Requests keep to a rate, and refusals slow them down."""

from __future__ import annotations

import pytest

from airlock.stages.reconcile_meter import TRIES, Meter, ServiceRefusedError


class Clock:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


class BusyError(Exception):
    """A refusal."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> Meter:
    return Meter("The service", 10, clock=clock, pause=clock.pause)


def is_busy(error: Exception) -> bool:
    return isinstance(error, BusyError)


def refuse(times: int) -> object:
    left = times

    def request() -> str:
        nonlocal left
        left -= 1
        if left >= 0:
            raise BusyError
        return "answer"

    return request


def test_requests_keep_to_the_rate(meter: Meter, clock: Clock) -> None:
    for _ in range(21):
        meter.ask("Get", lambda: None, is_busy)
    assert clock.now == pytest.approx(2.0)
    assert meter.take_counts() == {"Get": 21}
    assert meter.take_counts() == {}


def test_a_refused_request_is_sent_again_and_counted_each_time(meter: Meter) -> None:
    assert meter.ask("Get", refuse(3), is_busy) == "answer"  # type: ignore[arg-type]
    assert meter.take_counts() == {"Get": 4}


def test_after_refusals_requests_are_slower_and_rise_again(meter: Meter, clock: Clock) -> None:
    meter.ask("Get", refuse(2), is_busy)  # type: ignore[arg-type]
    began = clock.now
    for _ in range(10):
        meter.ask("Get", lambda: None, is_busy)
    assert clock.now - began > 2.0  # a second at the full rate
    for _ in range(200):
        meter.ask("Get", lambda: None, is_busy)
    began = clock.now
    for _ in range(10):
        meter.ask("Get", lambda: None, is_busy)
    assert clock.now - began == pytest.approx(1.0, rel=0.05)


def test_a_service_that_refuses_for_minutes_ends_it(meter: Meter, clock: Clock) -> None:
    with pytest.raises(ServiceRefusedError, match=f"refused Get {TRIES} times in a row"):
        meter.ask("Get", refuse(TRIES), is_busy)  # type: ignore[arg-type]
    assert clock.now > 120


def test_another_error_is_not_tried_again(meter: Meter) -> None:
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        meter.ask("Get", fail, is_busy)
    assert meter.take_counts() == {"Get": 1}
