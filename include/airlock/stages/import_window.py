"""The hours in which new import jobs may be started, as the clock on the wall shows them."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from airlock.pipelines import ImportWindow

_MINUTE = timedelta(minutes=1)


def is_open(window: ImportWindow, moment: datetime) -> bool:
    """Say whether the clock on the wall shows a time within the window: from its start on, before its end."""
    clock = moment.astimezone(ZoneInfo(window.timezone)).time()
    start, end = time.fromisoformat(window.start), time.fromisoformat(window.end)
    return start <= clock < end if start < end else clock >= start or clock < end


def opens_at(window: ImportWindow, now: datetime) -> datetime:
    """Return the first moment from now on at which the window is open: now itself where it is.

    The clock is looked at minute by minute: so an hour that it skips or shows twice needs no rule of its own. A window
    whose start is skipped opens when the clock jumps; one that is skipped whole opens on the next day.

    Parameters
    ----------
    window
        Its start and end, in hours and minutes, and its time zone.
    now
        An aware moment.

    Returns
    -------
    datetime.datetime
        In UTC.
    """
    moment = now.astimezone(UTC)
    while not is_open(window, moment):
        moment = moment.replace(second=0, microsecond=0) + _MINUTE
    return moment


def hours_open(window: ImportWindow) -> float:
    """Return the hours of a night without a change of the clock."""
    start, end = (int(text[:2]) + int(text[3:]) / 60 for text in (window.start, window.end))
    return (end - start) % 24
