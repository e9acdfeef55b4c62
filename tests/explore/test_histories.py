"""Histories play, replay and shrink; those that once broke the books do so no more."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from airlock.imaging import audit
from tests.explore import aim as aims
from tests.explore.aim import Aim
from tests.explore.explorer import play
from tests.explore.generate import generate, small
from tests.explore.history import Clear, Go, History, RunPlan, Upload
from tests.explore.known import KNOWN
from tests.explore.play import Coverage
from tests.explore.shrink import shrink

if TYPE_CHECKING:
    from tests.explore.world import World

NUMBERS = range(24)


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_history(world: World, name: str) -> None:
    played = play(world, KNOWN[name], Coverage())
    assert not played.violations, "\n".join(played.timeline)


def test_a_study_that_missed_its_publication_waits_for_no_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With this rule broken. Two runs stop three times in the history, so a search comes by such a one by luck only."""
    monkeypatch.setattr(audit, "_find_late", lambda *_: None)
    history = KNOWN["a study in flight until the publication was over is published by the next run"]
    assert [found.invariant for found in play(world, history, Coverage()).violations] == [11]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_seed_makes_the_same_history_again(number: int) -> None:
    history = generate(7, number)
    assert generate(7, number) == history
    assert History.from_json(history.to_json()) == history


@pytest.mark.parametrize("number", [0, 4, 7])
def test_a_history_plays_the_same_again(world: World, number: int) -> None:
    history = generate(7, number)
    first, second = (play(world, history, Coverage()) for _ in range(2))
    assert first.timeline == second.timeline


def test_a_run_stops_at_a_point_that_a_history_names(world: World) -> None:
    runs = {"A": RunPlan("first", "in/a/"), "B": RunPlan("first", "in/b/")}
    point = "audit ledger.at_once imaging/settle.py"
    steps = (Upload("in/a/1.dcm", "ct 1.1.1"), Go("A", at=point, fatal=True), Go("B"), Clear("A", at=point), Clear("A"))
    coverage = Coverage()
    assert not play(world, History("test", runs, steps), coverage).violations
    assert [(site.call, number) for site, number in coverage.killed.items()] == [("ledger.at_once", 2)]


def test_the_search_aims_at_points_where_no_run_was_killed_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.explore.aim._MOST_AGAIN", (8,))  # kills of a run after its first
    coverage, aim = Coverage(), Aim()
    play(world, small(7, 0), coverage)
    known = dict(coverage.reached)
    for turn in range(3):
        aimed = aim.at(coverage, Random(turn), fatal=True)  # it replays, it guards nothing
        assert aimed is not None
        before = len(coverage.killed)
        play(world, aimed, coverage)
        assert len(coverage.killed) > before
    assert len(coverage.killed) >= 10
    assert set(coverage.killed) <= {*known, *coverage.reached}


def test_the_search_aims_at_a_wave_that_is_taken_at_rest(world: World) -> None:
    uploads = tuple(Upload(f"in/{folder}/1.dcm", f"ct {number}.1.1") for number, folder in enumerate("ab", 1))
    coverage = Coverage()
    play(world, History("small waves", {"A": RunPlan("whole", "in/nothing/")}, uploads), coverage)
    site, witness = next(
        (site, one) for site, found in coverage.witnesses.items() for one in found if one.run.endswith("whole2")
    )
    for make in (aims._wait(site, witness), aims._kill(Random(1), site, witness, set(), (0,))):
        plans = {name.rpartition("-")[2]: (name, plan) for name, plan in make.runs.items()}
        assert plans["whole2"][1] == RunPlan("whole", wave=2, wave_of=plans["whole"][0])
        before = sum(coverage.reached.values())
        assert not play(world, make, coverage).violations
        assert sum(coverage.reached.values()) > before


def test_a_history_shrinks_to_what_breaks() -> None:
    steps = (*(Upload(f"in/{number}.dcm", "bad 1.1.1") for number in range(8)), Go("A", 40, fatal=True), Go("B"))
    history = History("test", {"A": RunPlan("first"), "B": RunPlan("first")}, steps)
    needed = Upload("in/5.dcm", "ct 1.1.1")

    def breaks(one: History) -> bool:
        keys = {step.key for step in one.steps if isinstance(step, Upload)}
        return needed.key in keys and any(isinstance(step, Go) and step.run == "A" for step in one.steps)

    assert shrink(history, breaks, 10) == History("test", {"A": RunPlan("first")}, (needed, Go("A")))
