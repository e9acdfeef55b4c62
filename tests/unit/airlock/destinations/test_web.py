"""What a server asks for is taken as far as a server may ask for it, and its address stays out of the log."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from airlock.destinations.web import LONGEST_RETRY_AFTER, retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("120", 120), ("0", 0), ("9999999", LONGEST_RETRY_AFTER), ("9" * 400, LONGEST_RETRY_AFTER)),
        *(("-5", None), ("soon", None), ("", None), (None, None), ("1.5", None), ("²", None), ("Mon, 32 Foo", None)),
        ("Mon, 01 Jan 99999999999999 00:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", LONGEST_RETRY_AFTER),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_whatever_stands_there_is_a_day_at_most(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_it_may_say_until_when() -> None:
    until = datetime.now(UTC) + timedelta(minutes=5)
    assert retry_after(format_datetime(until, usegmt=True)) == pytest.approx(300, abs=30)


@pytest.mark.parametrize("name", ["httpx", "httpcore"])
def test_requests_are_not_logged(name: str) -> None:
    assert not logging.getLogger(name).isEnabledFor(logging.INFO)
