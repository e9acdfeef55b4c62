"""Cron expressions as Airflow reads them: whether one is valid, and when it fires next."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter  # type: ignore[import-untyped]

# Airflow's names for expressions (airflow.utils.dates.cron_presets).
_PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@quarterly": "0 0 1 */3 *",
    "@yearly": "0 0 1 1 *",
}
_FIRINGS = 24  # a cron of some hours or weekdays has had its longest pause by then
_SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)


def check_cron(text: str) -> str:
    """Return a cron expression.

    Raises
    ------
    ValueError
        If Airflow would refuse it, or it never fires.
    """
    try:
        next_time(text, "UTC", _SOME_DAY)
    except CroniterError:
        raise ValueError(
            f"{text!r} is not a cron expression that ever fires: write minute, hour, day, month and weekday, "
            f"for example '0 2 * * *', or one of {', '.join(_PRESETS)}"
        ) from None
    return text


def next_time(cron: str, timezone: str, after: datetime) -> datetime:
    """Return the first moment after another one at which a valid cron expression fires in a time zone."""
    moment: datetime = croniter(_PRESETS.get(cron, cron), after.astimezone(ZoneInfo(timezone))).get_next(datetime)
    return moment


def longest_interval(cron: str, timezone: str, after: datetime) -> timedelta:
    """Return the longest time between two of the next firings of a valid cron expression."""
    moments = [next_time(cron, timezone, after)]
    for _ in range(_FIRINGS):
        moments.append(next_time(cron, timezone, moments[-1]))
    return max(later - earlier for earlier, later in pairwise(moments))
