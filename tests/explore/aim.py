"""Aim at the points at which a run was killed, or waited while another went on, least often so far.

A point is known by a witness: a history, and the step in which a run came by it. Cut there, the witness becomes a
history in which the run stops at this point. Each process aims at points of its own, so that two do not aim at one.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.explore.history import STAGES, Clear, GiveUp, Go, History, RunPlan, Wait

if TYPE_CHECKING:
    from collections import Counter
    from random import Random

    from tests.explore.history import Step
    from tests.explore.play import Coverage
    from tests.explore.scheduler import Site

_DECIDING = ("audit", "fhir.normalize", "fhir.audit", "validate")  # stages in which runs look at one another
ENOUGH = 2  # times that a run is killed at each point
WITNESSES = 8  # of each point: one may have the right files for what breaks there
MISSES = 3  # tries at a point that do not reach it
LAST = "last"  # begins the names of the runs after everything


@dataclass(frozen=True)
class Witness:
    """A history in which a run comes by a point, and the number of the step; beyond the last: at rest."""

    history: History
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
        if not rare:
            return None
        calm = (0 if fatal else _calmness(one) for one in rare)
        rank = {one: (so, not self._is_mine(one), often[one], rng.random()) for one, so in zip(rare, calm, strict=True)}
        site = min(rare, key=lambda one: rank[one])
        self._note(site, fatal)
        witness = rng.choice(coverage.witnesses[site])
        if not fatal:
            return _wait(site, witness)
        mine = filter(self._is_mine, rare)
        later = [one for one in mine if any(_follows(one, by, site, witness) for by in coverage.witnesses[one])]
        later.sort(key=lambda one: (often[one], rng.random()))
        more = later[: rng.choice((1, 2, 3))]
        more.sort(key=lambda one: STAGES.index(one.stage))
        return _kill(rng, [site, *more], witness)

    def _note(self, site: Site, fatal: bool) -> None:
        self.tries[site, fatal] = self.tries.get((site, fatal), 0) + 1

    def _often(self, site: Site, counted: Counter[Site], fatal: bool) -> int:
        """Return how often a run has stopped at a point; some are not reached again."""
        return max(counted[site], self.tries.get((site, fatal), 0) - MISSES)

    def _is_mine(self, site: Site) -> bool:
        return zlib.crc32(str(site).encode()) % self.every == self.first % self.every


def _calmness(site: Site) -> int:
    """Return how little an overtaking run disturbs here; most right before a transaction, after a look at the books."""
    return 0 if site.call == "ledger.at_once" else 1 if site.stage in _DECIDING else 2


def _follows(later: Site, by: Witness, site: Site, witness: Witness) -> bool:
    """Return whether the run that comes by a point does so in a later stage than by another."""
    same = by.history is witness.history and (by.run, by.step) == (witness.run, witness.step)
    return same and STAGES.index(later.stage) > STAGES.index(site.stage)


def _kill(rng: Random, sites: list[Site], witness: Witness) -> History:
    """Return a history whose run is killed at a point; then others go on, and it is cleared, and maybe killed again."""
    history, before, after = _cut(witness, sites[0], fatal=True)
    name = _name(witness)
    others = [Go(one) for one in history.runs if one != name]
    given_up: list[Step] = [GiveUp(name)] if rng.random() < 0.2 else []
    meanwhile: list[Step] = [*given_up, *others] if rng.random() < 0.5 else [*others, *given_up]
    again = [Clear(name, at=str(site)) for site in sites[1:]] + [Clear(name)]
    return replace(history, kind=f"kill {_kind(history)}", steps=(*before, *meanwhile, *again, *after))


def _wait(site: Site, witness: Witness) -> History:
    """Return a history whose run waits at a point while all others go on to their ends."""
    history, before, after = _cut(witness, site, fatal=False)
    others = [Go(one) for one in history.runs if one != _name(witness)]
    steps = (*before, *others, Go(_name(witness)), *after)
    return replace(history, kind=f"overtake {_kind(history)}", steps=steps)


def _cut(witness: Witness, site: Site, *, fatal: bool) -> tuple[History, tuple[Step, ...], tuple[Step, ...]]:
    """Return the history, and its steps up to the point and after it."""
    history, name = witness.history, witness.run
    if witness.step < len(history.steps):
        step = history.steps[witness.step]
        if isinstance(step, Clear):
            cut: Step = Clear(name, step.stage, at=str(site), fatal=fatal)
        elif isinstance(step, GiveUp):
            cut = GiveUp(name, at=str(site), fatal=fatal)
        else:
            cut = Go(name, fatal=fatal, at=str(site))
        return history, (*history.steps[: witness.step], cut), history.steps[witness.step + 1 :]
    ends: list[Step] = [step for one in history.runs for step in (Go(one), Clear(one))]
    if not name.startswith(LAST):
        return history, (*history.steps, *ends, Clear(name, "audit", at=str(site), fatal=fatal)), ()
    plan = RunPlan(name.removeprefix(f"{LAST}-"))
    history = replace(history, runs={**history.runs, _name(witness): plan})
    return history, (*history.steps, *ends, Wait(72), Go(_name(witness), fatal=fatal, at=str(site))), ()


def _name(witness: Witness) -> str:
    """Return the name of the run: one that the player makes at rest becomes a run of the history."""
    return witness.run.replace(f"{LAST}-", "rest-")


def is_aimed(history: History) -> bool:
    """Return whether a history was made from another one, and is longer."""
    return history.kind.startswith(("kill ", "overtake "))


def _kind(history: History) -> str:
    """Return the kind of a history without what was done to it before."""
    return history.kind.removeprefix("kill ").removeprefix("overtake ")
