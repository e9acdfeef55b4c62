"""Histories of nights with sweeps: objects that no window covers, sweeps that are killed, and the nights after them.

What counts is invariant 10: after a sweep and a night, every object is an arrival, whatever its date.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airlock.stages.sweep import sweep
from airlock.stages.sweep_answer import answer
from airlock.storage.s3 import S3
from tests.explore import contents
from tests.explore.facts import Violation
from tests.explore.history import Go, History, Remove, RunPlan, Sweep, Upload, Wait
from tests.explore.nights import nights
from tests.explore.scheduler import Killed

if TYPE_CHECKING:
    from random import Random

    from airlock.stages.sweep_work import Swept
    from tests.explore.play import Player

_MOST_CALLS = 14  # of S3 in a sweep, about
_LONG_AGO = ("2026-01-02T02:00:00+00:00", "2026-01-03T02:00:00+00:00")  # a night whose window covers nothing
_SWEPT = "swept-"  # begins the names of the nights after the last sweeps
_YOUTH_HOURS = 120.0  # after which no object is young
_TRIES = 2  # sweeps at the end: the first may go on with one that had passed an object


def swept(rng: Random) -> History:
    """Return some nights between which objects with any date come, and everything is swept."""
    history = nights(rng)
    steps = list(history.steps)
    names = [f"in/{folder}/{number:03}.dcm" for folder in ("late", "2026/10/20") for number in range(900, 903)]
    for number, key in enumerate(names[: rng.randint(2, 6)]):
        steps.insert(rng.randint(0, len(steps)), Upload(key, f"ct 2.1.{number + 1}", rng.uniform(0, 3000)))
    for _ in range(rng.randint(0, 2)):
        key = rng.choice(names)
        change = rng.choice((Remove(key), Upload(key, f"ct 3.1.{rng.randint(1, 3)}", rng.uniform(0, 90))))
        steps.insert(rng.randint(0, len(steps)), change)
    for _ in range(rng.randint(1, 4)):
        calls = rng.choice((0, 0, rng.randint(1, _MOST_CALLS)))
        steps.insert(rng.randint(0, len(steps)), Sweep("first", calls))
    return replace(history, kind="swept nights", steps=tuple(steps))


class _DyingClient:
    """An S3 client whose process is killed at one of its calls."""

    def __init__(self, client: Any, calls: int) -> None:
        self._client = client
        self._left = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*args: Any, **given: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise Killed
            return found(*args, **given)

        return call


def do_sweep(player: Player, step: Sweep) -> None:
    """Sweep a source, and take in what the sweep asks about; or be killed meanwhile."""
    if step.pipeline not in player.pipelines:
        return
    try:
        found = _sweep(player, step.pipeline, step.calls)
    except Killed:
        player.say("  the sweep is killed")
    else:
        player.say(f"  {found.overdue} overdue, {found.taken_in} taken in, {found.asks} asked about")


def _sweep(player: Player, name: str, calls: int) -> Swept:
    pipeline, ledger = player.pipelines[name], player.outside.ledger
    s3 = S3(None, _DyingClient(player.outside.s3, calls))  # type: ignore[arg-type]  # no session is needed
    found = sweep(pipeline, s3, ledger, "an operator")
    if found.asks:
        answer(pipeline, s3, ledger, found.report["sweep"], take_in=True, person="ada", why="they belong here")
    return found


def sweep_at_rest(player: Player) -> None:
    """Sweep until nothing is overdue, with a night after each sweep whose own window covers nothing."""
    if not any(isinstance(step, Sweep) for step in player.history.steps):
        return
    player.do(Wait(_YOUTH_HOURS))
    for number in range(_TRIES):
        player.do(Sweep("first"))
        name = f"{_SWEPT}{number}"
        player.open_run(name, RunPlan("first", window=_LONG_AGO, how=f"scheduled__{number}"))
        player.do(Go(name))


def every_object_is_an_arrival(player: Player) -> list[Violation]:
    """10, as far as sweeps go: whatever its date, an object is an arrival after a sweep and a night."""
    if not any(run.startswith(_SWEPT) for run in player.runs):
        return []
    taken = {(row.key, row.etag) for row in player.reader.read().arrivals}
    return [
        Violation(10, f"{one.key} of {one.at:%a %d %b %H:%M} is no arrival after a sweep and a night")
        for one in player.facts.puts
        if one.gone_at is None and (one.key, contents.etag_of(one.content)) not in taken
    ]
