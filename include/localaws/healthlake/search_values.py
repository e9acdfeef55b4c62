"""Dates and numbers as searches compare them: each means a range (FHIR R4, search, 3.1.1.4)."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

Span = tuple[float, float]
"""Where a value begins, and where it ends: the first moment or number that is not part of it any more."""

EVER: Span = (float(-(1 << 60)), float(1 << 60))
PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb")
"""Those of HealthLake; R4's ``ap`` is not among them."""

DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?", re.ASCII)
OWN_ADDRESS = re.compile(r"https?://[^/]+/datastore/[^/]+/r4/")
VERSION = re.compile(r"/_history/[^/]+$")


def split_prefix(text: str) -> tuple[str, str]:
    """Split a prefix off a date or number; without one it is ``eq``."""
    return (text[:2], text[2:]) if text[:2] in PREFIXES else ("eq", text)


def read_moments(text: str) -> Span | None:
    """Return the milliseconds since the epoch that a date or dateTime covers, None if it is not a date.

    A time without a zone counts as UTC.
    """
    match = DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) if part else None for part in match.groups()[:6])
    try:
        start = datetime(year or 0, month or 1, day or 1, hour or 0, minute or 0, second or 0, tzinfo=UTC)
        shift = _offset(match[8])
        low = start.timestamp() * 1000 - shift
        end = _next(start, month, day, hour, second).timestamp() * 1000 - shift
    except (ValueError, OverflowError):
        return None
    if match[7]:
        low += math.floor(float(match[7]) * 1000)
        return low, low + 1
    return low, end


def _next(start: datetime, month: int | None, day: int | None, hour: int | None, second: int | None) -> datetime:
    """Return the end of the year, month, day, minute or second that begins at `start`."""
    if month is None:
        return start.replace(year=start.year + 1)
    if day is None:
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    if hour is None:
        return start + timedelta(days=1)
    return start + (timedelta(minutes=1) if second is None else timedelta(seconds=1))


def _offset(zone: str | None) -> float:
    if zone in (None, "Z"):
        return 0.0
    hours, minutes = int(zone[1:3]), int(zone[4:])
    return (-1 if zone[0] == "-" else 1) * (hours * 60 + minutes) * 60_000.0


def read_numbers(text: str, *, exact: bool = False) -> Span | None:
    """Return the range of a number, None if it is not one: 5.4 is 5.35 up to 5.45, by its significant digits."""
    if not NUMBER.fullmatch(text):
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    half = Decimal(0) if exact else Decimal(5).scaleb(int(number.as_tuple().exponent) - 1)
    return float(number - half), float(number + half)


def plain_reference(text: str) -> str:
    """Return a reference as searches compare it: relative within its own data store, and without a version."""
    return VERSION.sub("", OWN_ADDRESS.sub("", text))
