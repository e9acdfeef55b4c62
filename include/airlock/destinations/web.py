"""Shared parts of HTTP destinations: Retry-After, and the log without addresses.

httpx logs the address of every request, which may hold a UID or a webhook's secret. So its loggers log only warnings.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_RETRY_AFTER = 86_400.0  # seconds; a longer one is cut

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def retry_after(header: str | None) -> float | None:
    """Return the wait that a Retry-After header asks for, in seconds or by a date (RFC 9110 section 10.2.3).

    Returns
    -------
    float or None
        Seconds from now, a day at most; None if the header is absent or cannot be read.
    """
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return min(float(header), LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(header)
        wait = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):  # OverflowError: the year is out of range
        return None
    return min(max(wait, 0.0), LONGEST_RETRY_AFTER)
