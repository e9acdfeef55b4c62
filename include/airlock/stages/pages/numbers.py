"""Numbers, shares, sizes, ages and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_AGES = ((timedelta(days=1), "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "min"))
LEAST_SHARE = 0.001  # below which a share is only "below"


def count(number: int) -> str:
    """Return a whole number with commas, as ``12,304``."""
    return f"{number:,}"


def share(part: float, whole: float) -> str:
    """Return a share in percent, as ``0.8 %``; nothing of nothing."""
    if not whole or not part:
        return "0 %" if whole else ""
    found = part / whole
    if found < LEAST_SHARE:
        return "< 0.1 %"
    if found < 1 and round(found * 100, 1) == 100:
        return "> 99.9 %"
    return f"{found * 100:.1f}".removesuffix(".0") + " %"


def size(number: float) -> str:
    """Return a number of bytes with a unit, as ``1.5 GiB``."""
    value, unit = float(number), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def age(since: datetime, now: datetime) -> str:
    """Return the time since a moment, in its largest unit, as ``3 d``; two units below two days."""
    passed = max(now - since, timedelta())
    for length, unit in _AGES:
        if passed >= length:
            number = passed // length
            if unit == "d" and number < 2:
                return f"{passed // timedelta(hours=1)} h"
            return f"{number} {unit}"
    return "under a minute"


def moment(at: datetime | None) -> str:
    """Return a time in UTC to the minute, as ``2026-11-30 02:14 UTC``; a dash for none."""
    return "-" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def day(at: datetime) -> str:
    """Return the day of a time in UTC, as ``2026-11-30``."""
    return f"{at.astimezone(UTC):%Y-%m-%d}"


def month_start(at: datetime) -> datetime:
    """Return when the month of a time began, in UTC."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """Return a number with its noun, as ``1 study`` or ``3 studies``."""
    return f"{count(number)} {noun if number == 1 else nouns or noun + 's'}"
