"""The hours of local time in which new import jobs may start."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from airlock.pipelines import ImportWindow

_MINUTE = timedelta(minutes=1)


def is_open(window: ImportWindow, moment: datetime) -> bool:
    """Return whether the local time is in the window: at or after its start, and before its end."""
    clock = moment.astimezone(ZoneInfo(window.timezone)).time()
    start, end = time.fromisoformat(window.start), time.fromisoformat(window.end)
    return start <= clock < end if start < end else clock >= start or clock < end


def opens_at(window: ImportWindow, now: datetime) -> datetime:
    """Return the next moment at which the window is open, which is now if it is open.

    It tries minute by minute, so that an hour that the clock skips or repeats needs no rule. If the clock skips the
    start of a window, the window opens when the clock jumps. If it skips the whole window, that opens on the next day.

    Parameters
    ----------
    window
        The start and end in hours and minutes, and the time zone.
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
