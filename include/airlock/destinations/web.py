"""HTTP servers of others, as destinations: what each of them may ask for, and what the log must not have.

httpx writes every request's address into the log. An address may hold a UID, or what a webhook keeps secret: its
loggers are kept to warnings.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_RETRY_AFTER = 86_400.0  # seconds; a destination cannot put itself to sleep for longer

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def retry_after(header: str | None) -> float | None:
    """Read Retry-After, which is seconds or a date (RFC 9110 section 10.2.3).

    Returns
    -------
    float or None
        Seconds from now, a day at most; None where the header is not there or is neither.
    """
    if header is None:
        return None
    if header.isascii() and header.isdigit():
        return min(float(header), LONGEST_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(header)
        wait = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):  # the latter of a year that no clock has
        return None
    return min(max(wait, 0.0), LONGEST_RETRY_AFTER)
