"""Histories of scheduled nights: crons, zones and the end of summer time, nights that fail, weeks that are paused.

Their runs end after buffer: what counts is that every object becomes an arrival. Which objects that holds for is said
in `History.promised`: those that were visible, at their own time or within the lookback, before the last night.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tests.explore.clock import START
from tests.explore.history import Clear, GiveUp, Go, History, RunPlan, Step, Upload, Wait
from tests.explore.waves import CUT, plan_waves

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
_DELAY = timedelta(hours=3)  # the longest from a window's end to its run
_POINTS = 12  # of a night up to its claim, about
_FATES = ("good", "good", "good", "fails", "fails", "paused", "late")
_MOST_WAVES = 5  # of a delivery: at most six objects, two of which go into a wave


@dataclass(frozen=True)
class _Event:
    at: datetime
    steps: tuple[Step, ...]


def nights(rng: Random) -> History:
    """Return some nights."""
    return _make_nights(rng, "first", _FATES)


def nights_in_waves(rng: Random) -> History:
    """Return nights whose deliveries are cut; after some of them the later waves never begin."""
    return replace(_make_nights(rng, "waves", (*_FATES, "stalls", "stalls", "stalls")), kind="nights in waves")


def _make_nights(rng: Random, pipeline: str, fates: Sequence[str]) -> History:
    zone, key_dates, lookback = ZoneInfo(rng.choice(ZONES)), rng.random() < 0.3, rng.choice((0.0, 0.0, 24.0))
    ends = _window_ends(rng, zone, rng.randint(3, 7))
    begins = [end + timedelta(seconds=rng.uniform(1, _DELAY.total_seconds())) for end in ends]
    runs: dict[str, RunPlan] = {}
    events: list[_Event] = []
    for number, (start, end) in enumerate(pairwise(ends)):
        last = number == len(ends) - 2
        fate = "good" if last else rng.choice(fates)
        if fate != "paused":
            name = f"night-{number + 1}"
            waves = _MOST_WAVES if fate == "good" and pipeline in CUT else 1
            window = (start.isoformat(), end.isoformat())
            plans = plan_waves(pipeline, waves, name, window=window, how="scheduled")
            runs |= plans
            events += _run(rng, name, begins[number + 1], fate)
            events.append(_Event(begins[number + 1] + timedelta(seconds=1), tuple(map(Go, list(plans)[1:]))))
    uploads, promised = _uploads(rng, ends, zone, key_dates=key_dates, lookback=lookback)
    steps = _in_time([*events, *uploads])
    return History(
        "nights",
        runs,
        steps,
        zone=zone.key,
        lookback_hours=lookback,
        key_dates=key_dates,
        claims_only=True,
        promised=promised,
    )


def _window_ends(rng: Random, zone: ZoneInfo, number: int) -> list[datetime]:
    """Return the moments at which a cron fires, at the same local time each day or each week."""
    hour, minute, days = (
        rng.choice((0, 0, 2, 2, 2, 23, rng.randint(0, 23))),
        rng.choice((0, 0, 30)),
        rng.choice((1, 1, 7)),
    )
    first = (START + timedelta(days=1)).astimezone(zone).replace(hour=hour, minute=minute, second=0, microsecond=0)
    local = [first.replace(tzinfo=None) + timedelta(days=days * count) for count in range(number)]
    return [moment.replace(tzinfo=zone).astimezone(START.tzinfo) for moment in local]


def _run(rng: Random, name: str, begins: datetime, fate: str) -> list[_Event]:
    """Return what becomes of a night: it is good, or its retries are used up, and maybe it is cleared later."""
    if fate in {"good", "stalls"}:
        return [_Event(begins, (Go(name),))]
    broken = _Event(begins, (Go(name, rng.randint(1, _POINTS), fatal=True), GiveUp(name)))
    if fate == "fails":
        return [broken]
    return [broken, _Event(begins + timedelta(hours=rng.uniform(1, 60)), (Clear(name),))]


def _uploads(
    rng: Random, ends: list[datetime], zone: ZoneInfo, *, key_dates: bool, lookback: float
) -> tuple[list[_Event], tuple[str, ...]]:
    """Return uploads at any time from the first window on, and the keys of those that the nights must take."""
    events, promised = [], []
    span = (ends[-1] - ends[0]).total_seconds()
    for number in range(rng.randint(2, 6)):
        at = ends[0] + timedelta(seconds=rng.uniform(1, span - 1))
        day = at.astimezone(zone).date()
        late = rng.uniform(0, lookback / 2) if lookback and not key_dates and rng.random() < 0.2 else 0.0
        key = f"in/{day:%Y/%m/%d}/{number:03}.dcm"
        events.append(_Event(at, (Upload(key, f"ct 1.1.{number + 1}", late),)))
        over = not key_dates or day < ends[-1].astimezone(zone).date()
        if over and at - timedelta(hours=late) > ends[0]:
            promised.append(key)
    return events, tuple(promised)


def _in_time(events: list[_Event]) -> tuple[Step, ...]:
    steps: list[Step] = []
    now = START
    for event in sorted(events, key=lambda one: one.at):
        wait = (event.at - now).total_seconds() / 3600
        if wait > 0:
            steps.append(Wait(wait))
            now = event.at
        steps += event.steps
    return tuple(steps)
