"""Invariant 14: the state at rest is that of some serial order, in which each run does all of its work at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from tests.explore.facts import Violation
from tests.explore.history import Clear, GiveUp, Go, Kill
from tests.explore.invariants import TRANSIENT
from tests.explore.lost import has_lost
from tests.explore.play import Coverage, Player

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.explore.aim import Trace
    from tests.explore.history import History, RunPlan, Step
    from tests.explore.play import Played
    from tests.explore.world import World

MOST_ORDERS = 81  # of four runs


def check_serial(world: World, played: Played, *, audits_again: bool) -> Violation | None:
    """Return a violation if no serial order of the runs of a history leads to its state."""
    state, nearest = played.state, None
    if state is None or played.history.claims_only or _is_too_long(played.history) or _has_lost(world, played):
        return None
    for order in serial_orders(played.history, played.trace):
        other = Player(world, order, Coverage(), stop=False, quietly=True, audits_again=audits_again).play().state
        if other is None or other == state:
            return None
        lacking = other.differences(state), state.differences(other)
        if nearest is None or sum(map(len, lacking)) < sum(map(len, nearest)):
            nearest = lacking
    if nearest is None:
        return None
    serial, here = (", ".join(items) or "nothing" for items in nearest)
    return Violation(14, f"no serial order ends so; the nearest has [{serial}] where this has [{here}]")


def _is_too_long(history: History) -> bool:
    """Return whether a history has too many runs for all of their orders."""
    return "nights of waves" in history.kind


def _has_lost(world: World, played: Played) -> bool:
    """Return whether something was lost, whose state is that of no serial order.

    Somebody deleted an image set, or a FHIR file was to come again and its object was replaced or deleted before: some
    of its resources were taken then. Or an image was deleted between its header and its copy: the run that lists it in
    a serial order has it, and one that does not list it holds no study for it.
    """
    if has_lost(played.history):
        return True
    there = {(key, one.etag) for key, one in world.s3.buckets["archive"].objects.items()}
    files = (row for row in played.books.arrivals if row.reason in _lost_for(row.key))
    return any((row.key, row.etag) not in there for row in files)


def _lost_for(key: str) -> frozenset[str]:
    """Return the reasons of a file whose object no serial order finds again, if it is not there."""
    return TRANSIENT if key.startswith("fhir/") else frozenset({"object_gone"})


def serial_orders(history: History, trace: Trace) -> list[History]:
    """Return the histories in which each run happens at its first step, at its last one, or after all steps.

    A run that goes on after all steps does so when everything comes to rest. Steps in which a run did nothing do not
    count. None if the history is serial already.
    """
    places = {name: found for name in history.runs if (found := _places(history.steps, name, trace))}
    if not _is_interleaved(history, places):
        return []
    found: dict[tuple[Step, ...], History] = {}
    for choice in product((-1, 0, None), repeat=len(places)):
        steps = _place_runs(history, places, choice)
        found.setdefault(steps, replace(history, steps=steps))
    return list(found.values())[:MOST_ORDERS]


def _place_runs(history: History, places: dict[str, list[int]], choice: tuple[int | None, ...]) -> tuple[Step, ...]:
    """Return the steps in which each run happens once: at one of its places, or at the end."""
    chosen = list(zip(places, choice, strict=True))
    at = {places[name][end]: name for name, end in chosen if end is not None}
    steps: list[Step] = []
    for number, step in enumerate(history.steps):
        if number in at:
            steps.append(Go(at[number]))
        elif not isinstance(step, Go | Clear | GiveUp | Kill):
            steps.append(step)
    return tuple(_claim_waves([*steps, *(Go(name) for name, end in chosen if end is None)], history.runs))


def _claim_waves(steps: list[Step], runs: dict[str, RunPlan]) -> Iterator[Step]:
    """Yield steps with the claims of the waves before a wave, which starts only after them."""
    begun: set[str] = set()
    for step in steps:
        if isinstance(step, Go):
            plan = runs[step.run]
            before = [plan.wave_of, *(f"{plan.wave_of}{wave}" for wave in range(2, plan.wave))] if plan.wave else []
            yield from (Go(name, until="parse") for name in before if name not in begun)
            begun |= {*before, step.run}
        yield step


def _places(steps: tuple[Step, ...], name: str, trace: Trace) -> list[int]:
    return [at for at in range(len(steps)) if (name, at) in trace.passed]


def _is_interleaved(history: History, places: dict[str, list[int]]) -> bool:
    """Return whether a run was interrupted."""
    return any(len(found) > 1 for found in places.values()) or any(
        isinstance(step, Go) and (step.points or step.until or step.at) for step in history.steps
    )
