"""Histories of swept nights end with every object as an arrival, and show it where a sweep takes nothing in."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from airlock.ledger import Ledger
from tests.explore.explorer import play
from tests.explore.history import Go, History, RunPlan, Sweep, Upload, Wait
from tests.explore.play import Coverage
from tests.explore.sweeps import swept

if TYPE_CHECKING:
    from tests.explore.world import World

NIGHT = RunPlan("first", window=("2026-10-20T02:00:00+00:00", "2026-10-21T02:00:00+00:00"), how="scheduled")
REPLICA = History(
    "test",
    {"night": NIGHT},
    (Upload("in/a/1.dcm", "ct 1.1.1", age=1000), Wait(15), Go("night"), Sweep("first", calls=3), Sweep("first")),
    claims_only=True,
)


def test_a_replica_that_no_window_covers_is_an_arrival_after_a_sweep_and_a_night(world: World) -> None:
    played = play(world, REPLICA, Coverage())
    assert not played.violations
    assert "1 overdue, 0 taken in, 1 asked about" in "\n".join(played.timeline)  # the first is dry


def test_a_sweep_that_takes_nothing_in_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "owe_strays", lambda *_: 0)
    (violation,) = play(world, REPLICA, Coverage()).violations
    assert "is no arrival after a sweep and a night" in violation.text


@pytest.mark.parametrize("number", range(4))
def test_a_random_history_of_sweeps(world: World, number: int) -> None:
    played = play(world, swept(Random(f"sweeps/{number}")), Coverage())  # it replays, it guards nothing
    assert not played.violations, "\n".join(played.timeline)
