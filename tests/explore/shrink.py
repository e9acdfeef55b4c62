"""Make a history that breaks an invariant as short as it gets, by leaving out and simplifying its steps."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.explore.history import Clear, GiveUp, Go, History, Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.explore.facts import Violation
    from tests.explore.history import Step

SECONDS = 60.0


def shrink(history: History, breaks: Callable[[History], bool], seconds: float = SECONDS) -> History:
    """Return the shortest history found in this time that still breaks.

    Parameters
    ----------
    history
        One that breaks.
    breaks
        Whether a history breaks in the same way.
    seconds
        The longest time to search.
    """
    end = time.monotonic() + seconds
    changed = True
    while changed and time.monotonic() < end:
        changed = False
        for smaller in _smaller(history):
            if time.monotonic() >= end:
                break
            if breaks(smaller):
                history, changed = smaller, True
                break
    tidy = _without_unused_runs(history)
    return tidy if breaks(tidy) else history


def _smaller(history: History) -> Iterator[History]:
    """Yield simpler histories, those that leave out most first."""
    steps = history.steps
    size = len(steps) // 2
    while size:
        for start in range(0, len(steps), size):
            yield replace(history, steps=steps[:start] + steps[start + size :])
        size //= 2
    for at, step in enumerate(steps):
        for simpler in _simpler(step):
            yield replace(history, steps=(*steps[:at], simpler, *steps[at + 1 :]))


def _simpler(step: Step) -> Iterator[Step]:
    match step:
        case Go(run, points, fatal, until, at) if points or until or at:
            yield Go(run)
            if fatal:
                yield Go(run, points, until=until, at=at)
        case Clear(run, _, at) | GiveUp(run, at) if at:
            yield replace(step, at="")
        case Upload(key, content, age):
            if age:
                yield Upload(key, content)
            kind, _, rest = content.partition(" ")
            words = rest.split()
            if kind == "fhir" and len(words) > 1:
                yield from (
                    Upload(key, f"fhir {' '.join(words[:at] + words[at + 1 :])}", age) for at in range(len(words))
                )
            elif kind not in {"fhir", "ct"}:
                yield Upload(key, f"ct {rest}", age)


def _without_unused_runs(history: History) -> History:
    used = {getattr(step, "run", None) for step in history.steps}
    return replace(history, runs={name: plan for name, plan in history.runs.items() if name in used})


def signature(violation: Violation) -> str:
    """Return what two violations of one kind share: the invariant, and the text without names and numbers."""
    text = re.sub(r"\S*[/\d]\S*|run [\w-]+|\(.*?\)|\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun|Oct|Nov)\b", "…", violation.text)
    return f"{violation.invariant} {re.sub(r'[… ,;]+', ' ', text)[:60]}"
