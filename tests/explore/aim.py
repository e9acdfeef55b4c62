"""Aim at the points at which a run was killed, or waited while another went on, least often so far.

A point is known by a witness: a history, and the step in which a run came by it. Cut there, the witness becomes a
history in which the run stops at this point; cleared, it is killed again at points that it came by afterwards. Each
process aims at points of its own, so that two do not aim at one.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.explore.generate import is_small, small_like
from tests.explore.history import Clear, GiveUp, Go, History, RunPlan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.explore.history import Step
    from tests.explore.play import Coverage
    from tests.explore.scheduler import Site

_DECIDING = ("audit", "fhir.normalize", "fhir.audit", "validate")  # stages in which runs look at one another
ENOUGH = 2  # times that a run is killed at each point
WITNESSES = 8  # of each point: one may have the right files for what breaks there
MISSES = 3  # tries at a point that do not reach it
LAST = "last"  # begins the names of the runs after everything
_AGAIN, _MOST_AGAIN = (0, 1, 2), (0, 8, 16, 32)  # kills of a run after its first: each costs a part of one stage


@dataclass(frozen=True)
class Trace:
    """What a history has come by: all steps, also those at rest, and the points of each run in each step."""

    history: History
    done: list[Step] = field(default_factory=list)
    plans: dict[str, RunPlan] = field(default_factory=dict)  # of all runs
    passed: dict[tuple[str, int], dict[Site, None]] = field(default_factory=dict)  # in their order

    @property
    def points(self) -> set[Site]:
        """All points, of any run."""
        return set().union(*self.passed.values())

    def has_begun(self, run: str, step: int) -> bool:
        """Return whether a run had begun before a step."""
        return any(name == run and at < step for name, at in self.passed)

    def sites_of(self, run: str) -> list[Site]:
        """Return the points of a run in all steps, in their order."""
        return list(dict.fromkeys(site for (name, _), sites in self.passed.items() if name == run for site in sites))


@dataclass(frozen=True)
class Witness:
    """A trace in which a run comes by a point, and the number of the step."""

    trace: Trace
    step: int
    run: str


@dataclass
class Aim:
    """Chooses the points of one process.

    Parameters
    ----------
    first, every
        The process, and the number of processes.
    """

    first: int = 0
    every: int = 1
    tries: dict[tuple[Site, bool], int] = field(default_factory=dict)
    fresh: Counter[Site] = field(default_factory=Counter)  # histories made for each point
    is_behind: bool = True  # whether a run was killed less than twice at some point

    def at(self, coverage: Coverage, rng: Random, *, fatal: bool) -> History | None:
        """Return a history that stops a run at the point where that has happened least; None if no point is known.

        Parameters
        ----------
        coverage
            What the histories of this process have reached.
        rng
            Decides among equals.
        fatal
            Whether the run is killed there; otherwise it waits, and the others go on to their ends.
        """
        counted = coverage.killed if fatal else coverage.waited
        known = [site for site in coverage.witnesses if fatal or site not in coverage.locked]
        often = {site: self._often(site, counted, fatal) for site in known}
        rare = [site for site in known if often[site] < (ENOUGH if fatal else WITNESSES)]
        self.is_behind = bool(rare) if fatal else self.is_behind
        if not rare and not (fatal and known):
            return None
        ranks = {one: (0 if fatal else _calmness(one), not self._is_mine(one), often[one]) for one in rare or known}
        site = min(ranks, key=lambda one: (*ranks[one], rng.random()))
        self._note(site, fatal)
        witnesses = coverage.witnesses[site]
        if not fatal:
            return _wait(site, rng.choice(witnesses))
        if not rare:
            return _kill(rng, site, rng.choice(witnesses), set(known), _AGAIN)
        wanted = set(rare)
        richest = max(witnesses, key=lambda one: (len(wanted & one.trace.points), rng.random()))
        return _kill(rng, site, richest, wanted, _MOST_AGAIN)

    def afresh(self, coverage: Coverage, rng: Random) -> History | None:
        """Return a new small history whose run waits right before a transaction in which runs look at one another.

        What breaks there needs the right files, which the few witnesses of a point may lack.
        """
        calm = [site for site in coverage.witnesses if site not in coverage.locked and _calmness(site) == 0]
        small = {site: [one for one in coverage.witnesses[site] if _is_of_small_history(one)] for site in calm}
        known = [site for site in calm if small[site]]
        if not known:
            return None
        site = min(known, key=lambda one: (self.fresh[one], rng.random()))
        self.fresh[site] += 1
        witness = rng.choice(small[site])
        return _wait_afresh(site, witness.run, small_like(witness.trace.history, rng))

    def _note(self, site: Site, fatal: bool) -> None:
        self.tries[site, fatal] = self.tries.get((site, fatal), 0) + 1

    def _often(self, site: Site, counted: Counter[Site], fatal: bool) -> int:
        """Return how often a run has stopped at a point; some are not reached again."""
        return max(counted[site], self.tries.get((site, fatal), 0) - MISSES)

    def _is_mine(self, site: Site) -> bool:
        return zlib.crc32(str(site).encode()) % self.every == self.first % self.every


def _calmness(site: Site) -> int:
    """Return how little an overtaking run disturbs here; most right before a transaction, after a look at the books."""
    return (0 if site.call == "ledger.at_once" else 2) + (0 if site.stage in _DECIDING else 1)


def _kill(rng: Random, site: Site, witness: Witness, rare: set[Site], most: Sequence[int]) -> History:
    """Return a history whose run is killed at a point, maybe after others; then others go on, and it is cleared."""
    trace, name = witness.trace, _name(witness)
    first, *later = _choose(rng, list(trace.passed[witness.run, witness.step]), rare, most, site)
    history, before, after = _cut(witness, first, fatal=True)
    others: list[Step] = []
    for one in history.runs:
        if one != name and not trace.has_begun(one, witness.step) and rng.random() < 0.5:
            others += _kill_often(one, _choose(rng, trace.sites_of(one), rare, most))
        elif one != name:
            others.append(Go(one))
    given_up: list[Step] = [GiveUp(name)] if rng.random() < 0.2 else []
    meanwhile = [*given_up, *others] if rng.random() < 0.5 else [*others, *given_up]
    again = [*(Clear(name, at=str(one)) for one in later), Clear(name)]
    return replace(history, kind=f"kill {_kind(history)}", steps=(*before, *meanwhile, *again, *after))


def _choose(rng: Random, sites: list[Site], rare: set[Site], most: Sequence[int], *wanted: Site) -> list[Site]:
    """Return the wanted and some of the rare ones of a run's points, in their order."""
    found = [site for site in sites if site in rare]
    chosen = {*wanted, *rng.sample(found, min(len(found), rng.choice(most)))}
    return [site for site in sites if site in chosen]


def _kill_often(run: str, sites: list[Site]) -> list[Step]:
    """Return the steps in which a run begins, is killed at each of the points, and comes to its end."""
    if not sites:
        return [Go(run)]
    first, *more = map(str, sites)
    return [Go(run, fatal=True, at=first), *(Clear(run, at=one) for one in more), Clear(run)]


def _wait(site: Site, witness: Witness) -> History:
    """Return a history whose run waits at a point while all others go on to their ends."""
    history, before, after = _cut(witness, site, fatal=False)
    name = _name(witness)
    others = [Go(one) for one in history.runs if one != name]
    return replace(history, kind=f"overtake {_kind(history)}", steps=(*before, *others, Go(name), *after))


def _is_of_small_history(witness: Witness) -> bool:
    """Return whether a run of a small history came by, not one that the player made at rest."""
    return is_small(witness.trace.history) and witness.run in witness.trace.history.runs


def _wait_afresh(site: Site, name: str, history: History) -> History:
    """Return a small history whose run waits at a point until the others came to their ends."""
    steps = [Go(name, at=str(site)) if step == Go(name) else step for step in history.steps]
    return replace(history, kind=f"overtake {history.kind}", steps=(*steps, Go(name)))


def _cut(witness: Witness, site: Site, *, fatal: bool) -> tuple[History, tuple[Step, ...], tuple[Step, ...]]:
    """Return the history, and its steps up to the point and after it; those at rest become steps of the history."""
    trace, plain = witness.trace, witness.trace.history
    step, name = trace.done[witness.step], _name(witness)
    last = sorted({one for one, at in trace.passed if one.startswith(LAST) and at <= witness.step})
    names = dict.fromkeys(plain.runs) | {one: _name(replace(witness, run=one)) for one in last}
    runs = plain.runs | {names[one]: _follow(trace.plans[one], names) for one in last}
    if isinstance(step, Clear):
        cut: Step = Clear(name, step.stage, at=str(site), fatal=fatal)
    elif isinstance(step, GiveUp):
        cut = GiveUp(name, at=str(site), fatal=fatal)
    else:
        cut = Go(name, fatal=fatal, at=str(site))
    before = [_rename(one, names) for one in trace.done[: witness.step] if getattr(one, "run", None) in {None, *names}]
    return replace(plain, runs=runs), (*before, cut), plain.steps[witness.step + 1 :]


def _follow(plan: RunPlan, names: dict[str, str | None]) -> RunPlan:
    """Return the plan of a run at rest, which may be a wave of another one at rest."""
    return replace(plan, wave_of=names.get(plan.wave_of) or plan.wave_of)


def _rename(step: Step, names: dict[str, str | None]) -> Step:
    if isinstance(step, Go | Clear | GiveUp) and (name := names[step.run]):
        return replace(step, run=name)
    return step


def _name(witness: Witness) -> str:
    """Return the name of the run: one that the player makes at rest becomes a run of the history."""
    runs = witness.trace.history.runs
    return witness.run if witness.run in runs else f"rest-{len(runs)}-{witness.run}"


def is_aimed(history: History) -> bool:
    """Return whether a history was made from another one, and is longer."""
    return history.kind.startswith(("kill ", "overtake "))


def _kind(history: History) -> str:
    """Return the kind of a history without what was done to it before."""
    return history.kind.removeprefix("kill ").removeprefix("overtake ")
