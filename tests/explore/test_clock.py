"""The library waits by the clock of a history: what it waits for passes in no time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from airlock.clinical.read_back import find_differing
from airlock.imaging.read_back import ask_primary, read_back
from tests.explore.clock import START, Clock

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("function", [read_back, ask_primary, find_differing])
def test_a_function_that_sleeps_by_default_moves_the_clock(function: Callable[..., object]) -> None:
    clock, defaults = Clock(), function.__kwdefaults__
    with clock.shown_to_library():
        defaults["pause"](14)
        assert clock.time == START + timedelta(seconds=14)
    assert defaults["pause"] is time.sleep
