"""Token buckets."""

from __future__ import annotations

import pytest

from localaws.errors import AwsError
from localaws.throttles import Rate, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admitted(throttle: Throttle, operation: str, calls: int) -> int:
    return sum(is_admitted(throttle, operation) for _ in range(calls))


def is_admitted(throttle: Throttle, operation: str) -> bool:
    try:
        throttle.admit(operation)
    except AwsError as error:
        return error.code != "ThrottlingException"
    return True


def test_a_burst_passes_and_then_the_steady_rate() -> None:
    clock = Clock()
    throttle = Throttle({"Start": Rate(1, 2)}, clock)
    assert admitted(throttle, "Start", 5) == 2
    clock.now += 1
    assert admitted(throttle, "Start", 5) == 1
    clock.now += 60
    assert admitted(throttle, "Start", 5) == 2


def test_a_slow_rate_refills_in_fractions() -> None:
    clock = Clock()
    throttle = Throttle({"Delete": Rate(0.25, 1)}, clock)
    assert admitted(throttle, "Delete", 1) == 1
    clock.now += 3.9
    assert admitted(throttle, "Delete", 1) == 0
    clock.now += 0.2
    assert admitted(throttle, "Delete", 1) == 1


def test_operations_do_not_share_a_bucket_and_others_are_free() -> None:
    throttle = Throttle({"A": Rate(1, 1), "B": Rate(1, 1)}, Clock())
    assert (admitted(throttle, "A", 2), admitted(throttle, "B", 2), admitted(throttle, "C", 9)) == (1, 1, 9)


@pytest.mark.parametrize("text", ["0", "-1", "1:0.5", "fast"])
def test_a_rate_that_lets_nothing_through_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|float"):
        Rate.read(text)
