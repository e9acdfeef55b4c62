"""The search: history after history until the time is over, and what it found."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from tests.explore.aim import Aim
from tests.explore.generate import large, small
from tests.explore.play import Coverage, Player
from tests.explore.serial import check_serial
from tests.explore.shrink import shrink, signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.explore.facts import Violation
    from tests.explore.history import History
    from tests.explore.play import Played
    from tests.explore.world import World

SERIAL_EVERY, AUDITED_EVERY = 7, 3  # histories, of which one is compared with serial orders, or audited twice
_SMALL_FIRST = 12  # histories of each process before it aims
_LATE = 0.95  # of the time
_PLAN, _BEHIND = "kkfkokkfor", "kkfkkokfkr"  # turns: kill, overtake afresh or at a rare point, random


@dataclass(frozen=True)
class Checks:
    """What is checked beside the invariants at every point."""

    serial: bool = True  # 14: compare the state with those of the serial orders
    audits_again: bool = True  # 5: audit every run a second time
    number: int = 0  # of the history
    without: frozenset[int] = frozenset()  # invariants whose violations do not count


ALL_CHECKS = Checks()


@dataclass(frozen=True)
class Finding:
    """A broken invariant, with the shortest history that breaks it."""

    number: int  # of the history that the seed made
    violation: Violation
    history: History
    timeline: tuple[str, ...]


@dataclass
class Search:
    """The result of a search."""

    seed: int
    histories: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    coverage: Coverage = field(default_factory=Coverage)
    findings: dict[str, Finding] = field(default_factory=dict)  # by signature
    seen: Counter[str] = field(default_factory=Counter)  # histories by signature


def explore(
    world: World,
    seed: int,
    seconds: float,
    *,
    first: int = 0,
    every: int = 1,
    begin_with: Sequence[History] = (),
    keep_going: bool = False,
    without: frozenset[int] = frozenset(),
    shrink_seconds: float = 60.0,
    progress: Callable[[Search], None] = lambda _: None,
) -> Search:
    """Play the histories of a seed until the time is over, or until an invariant is broken.

    Parameters
    ----------
    world
        Where they are played.
    seed, first, every
        Which histories: numbers *first*, *first* + *every* and so on.
    begin_with
        Histories that come by points which those of a seed reach late, or never. The processes share them; their
        numbers are negative.
    seconds
        The time to search; the last history is played to its end.
    without
        Invariants whose violations do not count.
    keep_going
        Whether the search goes on after a violation, for other ones.
    shrink_seconds
        The time to shrink each finding.
    progress
        Called after each history.
    """
    search = Search(seed)
    begun, begun_cpu = time.monotonic(), time.process_time()
    aim, mine = Aim(first, every), begin_with[first::every]
    number = first - every * len(mine)
    while time.monotonic() - begun < seconds:
        is_late = time.monotonic() - begun > _LATE * seconds
        turn = number // every
        history = mine[turn] if turn < 0 else _choose(seed, number, aim, search.coverage, is_late=is_late)
        checks = Checks(turn % SERIAL_EVERY == 0, turn % AUDITED_EVERY == 0, number, without)
        found = play(world, history, search.coverage, checks)
        search.histories += 1
        search.kinds[history.kind] += 1
        for violation in found.violations:
            name = signature(violation)
            search.seen[name] += 1
            if name not in search.findings:
                search.findings[name] = _report(world, found, violation, shrink_seconds, checks)
        search.seconds, search.cpu_seconds = time.monotonic() - begun, time.process_time() - begun_cpu
        progress(search)
        if found.violations and not keep_going:
            break
        number += every
    return search


def _choose(seed: int, number: int, aim: Aim, coverage: Coverage, *, is_late: bool) -> History:
    """Return the next history: one that stops a run where that has happened least, or a random one.

    At the end it kills only: a random history could come by a point for which no time is left.
    """
    turn = number // aim.every
    if turn < _SMALL_FIRST:
        return small(seed, number, turn)
    plan = _BEHIND if aim.is_behind else _PLAN
    what = "k" if is_late else plan[turn % len(plan)]
    rng = Random(f"{seed}/{number}/aim")  # it replays, it guards nothing
    if what == "f":
        aimed = aim.afresh(coverage, rng)
    else:
        aimed = aim.at(coverage, rng, fatal=what == "k") if what != "r" else None
    return aimed or large(seed, number, rng)


def play(world: World, history: History, coverage: Coverage, checks: Checks = ALL_CHECKS) -> Played:
    """Play a history; if nothing is broken, compare its state with those of the serial orders."""
    audits_again = checks.audits_again
    played = Player(world, history, coverage, without=checks.without, audits_again=audits_again).play()
    if checks.serial and 14 not in checks.without and not played.violations:
        found = check_serial(world, played, audits_again=audits_again)
        if found is not None:
            played.violations.append(found)
            played.timeline.append(f"!! {found}")
    return played


def _report(world: World, played: Played, violation: Violation, seconds: float, checks: Checks) -> Finding:
    name = signature(violation)
    needed = replace(checks, serial=violation.invariant == 14)

    def breaks(history: History) -> bool:
        again = play(world, history, Coverage(), needed)
        return name in {signature(found) for found in again.violations}

    shortest = shrink(played.history, breaks, seconds) if seconds else played.history
    again = play(world, shortest, Coverage(), needed)
    same = [found for found in again.violations if signature(found) == name]
    return Finding(
        checks.number, same[0] if same else violation, shortest, tuple(again.timeline if same else played.timeline)
    )


def describe(finding: Finding) -> Iterator[str]:
    """Yield the lines that tell a person what happened."""
    yield f"{finding.violation}"
    for name, plan in finding.history.runs.items():
        yield f"  run {name}: {plan}"
    yield from (f"  {line}" for line in finding.timeline)
    yield f"  again: make explore HISTORY='{finding.history.to_json()}'"
