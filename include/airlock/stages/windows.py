"""Windows: which listed objects a run takes by their time, or by the day in their key.

With ``window: last_modified`` a run owns the moments of its data interval. With ``window: key_date`` it owns the local
days that end in its interval: the run of 02:00 owns the whole day before, whatever the time zone. Three rules widen
this, so that no object falls between two runs:

- The scheduled run of the newest interval has no upper bound: it takes everything that is listed. Claims make the
  overlap with the next run harmless, and a study that is uploaded across the end of the interval stays whole.
- A scheduled run starts where the last committed claim of a scheduled run ended, so a night that failed before its
  claim is taken by the next one. With ``catchup``, runs of older intervals keep to their own.
- Scheduled runs look back over ``lookback_days`` before their first day; all runs over ``lookback_hours``.

Where each folder is a delivery, an object also belongs to the run in whose window its folder was closed: that may be
days after the object was stored, and the runs before have left it.
"""

from __future__ import annotations

import re
from calendar import timegm
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl

from airlock.ledger.runs import SCHEDULED
from airlock.pipelines.cron import next_time
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline, Schedule, Source
    from airlock.records import Window
    from airlock.run import Run

WOKEN = "asset_triggered__"  # prefix of Airflow's ids of runs that the queue wakes


@dataclass(frozen=True)
class Bounds:
    """The first and last moment that a run takes, as `moments` counts them; both are included, None has no bound."""

    first: int | None = None
    last: int | None = None

    def contain(self, column: str) -> pl.Expr:
        """Return whether a moment lies within the bounds; without bounds every object does, even without a moment."""
        if self.first is None and self.last is None:
            return pl.lit(value=True)
        after = pl.lit(value=True) if self.first is None else pl.col(column) >= self.first
        return (after if self.last is None else after & (pl.col(column) <= self.last)).fill_null(value=False)


def is_newest(run: Run[Pipeline], now: datetime) -> bool:
    """Return whether a run is the scheduled run of the newest interval that has ended."""
    schedule = run.pipeline.schedule
    if run.window is None or schedule.cron is None or not run.run_id.startswith(SCHEDULED):
        return False
    return now < next_time(schedule.cron, schedule.timezone, run.window.end)


def find_bounds(run: Run[Pipeline], now: datetime) -> Bounds:
    """Return the bounds of what a run takes that lists at this moment."""
    window, source, start = run.window, run.pipeline.source, find_start(run, now)
    if window is None or start is None:
        return Bounds()
    is_open = is_newest(run, now)
    if source.window == "last_modified":
        first = _microseconds(start) - round(source.lookback_hours * 3600 * 10**6)
        return Bounds(first, None if is_open else _microseconds(window.end) - 1)
    first_day, last_day = _owned_days(start, window.end, run.pipeline.schedule)
    lookback_days = 0 if _keeps_to_interval(run, now) else source.lookback_days
    return Bounds(first_day - lookback_days, None if is_open else last_day)


def find_start(run: Run[Pipeline], now: datetime) -> datetime | None:
    """Return where the window of a run begins that lists at this moment, before any look-back; None without a window.

    The window of a scheduled run begins at the end of the last window before it that was claimed.
    """
    if run.window is None:
        return None
    before = None if _keeps_to_interval(run, now) else run.ledger.scheduled_until(run.pipeline.name, run.window.start)
    return before or run.window.start


def takes_owed(run: Run[Pipeline]) -> bool:
    """Return whether a run takes what is owed to its pipeline, whatever its time: not if it is limited on purpose.

    Runs with a prefix or a window, backfills and redrives take only what they were asked for.
    """
    is_limited = run.window is not None and not run.run_id.startswith(SCHEDULED)
    is_limited = is_limited or run.redrive is not None or run.wave is not None
    return not is_limited and run.prefix == S3Uri.parse(run.pipeline.source.uri)


def is_asked_for(run: Run[Pipeline]) -> bool:
    """Return whether a person has started a run, which then tries owed objects again at once."""
    return not run.run_id.startswith((SCHEDULED, WOKEN))


def owns_a_day(window: Window, schedule: Schedule) -> bool:
    """Return whether a local day ends within a window; with ``window: key_date`` it would otherwise take nothing."""
    first, last = _owned_days(window.start, window.end, schedule)
    return first <= last


def _keeps_to_interval(run: Run[Pipeline], now: datetime) -> bool:
    """Return whether a run takes nothing from before its interval, though no run before may have taken that."""
    return not run.run_id.startswith(SCHEDULED) or (run.pipeline.schedule.catchup and not is_newest(run, now))


def _owned_days(start: datetime, end: datetime, schedule: Schedule) -> tuple[int, int]:
    """Return the first and the last local day that end after *start* and not after *end*."""
    zone = ZoneInfo(schedule.timezone)
    return start.astimezone(zone).toordinal(), end.astimezone(zone).toordinal() - 1


def _microseconds(moment: datetime) -> int:
    """Return the microseconds from 1970 to an aware moment, of any subclass and in any time zone."""
    return timegm(moment.utctimetuple()) * 10**6 + moment.microsecond


def moments(source: Source, listed: pl.DataFrame) -> pl.Series:
    """Return the moment of each listed object: microseconds since 1970, or the ordinal of its day; null without one."""
    if source.window == "last_modified":
        return listed["last_modified"].dt.epoch("us").alias("moment")
    search = re.compile(source.key_date_pattern).search
    matches = (search(key) for key in listed["key"])
    days = [match and _ordinal(match["year"], match["month"], match["day"]) for match in matches]
    return pl.Series("moment", days, pl.Int64)


def closed_moments(pipeline: Pipeline, closed_at: pl.Series) -> pl.Series:
    """Return the moments at which deliveries were closed, as `moments` counts them; a day is that of the schedule."""
    if pipeline.source.window == "last_modified":
        return closed_at.dt.epoch("us").alias("closed")
    days = closed_at.dt.convert_time_zone(pipeline.schedule.timezone).dt.date()
    return (days.to_physical().cast(pl.Int64) + date(1970, 1, 1).toordinal()).alias("closed")


@lru_cache(maxsize=1000)
def _ordinal(year: str | None, month: str | None, day: str | None) -> int | None:
    """Return the number of a day; None if the day does not exist."""
    try:
        return date(int(year or ""), int(month or ""), int(day or "")).toordinal()
    except (ValueError, OverflowError):  # no such day, a group that took no part, a number beyond all years
        return None
