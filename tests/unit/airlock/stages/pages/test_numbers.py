from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from airlock.stages.pages.numbers import age, count, moment, month_start, plural, share, size

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(0, 0, ""), (0, 10, "0 %"), (1, 100_000, "< 0.1 %"), (8, 1000, "0.8 %"), (1, 4, "25 %"), (1, 3, "33.3 %")],
)
def test_a_share_is_as_exact_as_a_person_needs(part: int, whole: int, shown: str) -> None:
    assert share(part, whole) == shown


def test_all_but_one_is_not_all() -> None:
    assert share(99_999, 100_000) == "> 99.9 %"
    assert share(100_000, 100_000) == "100 %"


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        (timedelta(seconds=-5), "under a minute"),
        (timedelta(seconds=59), "under a minute"),
        (timedelta(minutes=12, seconds=40), "12 min"),
        (timedelta(hours=5, minutes=59), "5 h"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=3, hours=4), "3 d"),
    ],
)
def test_an_age_has_the_unit_that_a_person_says(passed: timedelta, shown: str) -> None:
    assert age(NOW - passed, NOW) == shown


def test_counts_sizes_and_nouns() -> None:
    assert (count(12_304), size(0), size(1536)) == ("12,304", "0 bytes", "1.5 KiB")
    assert (plural(1, "study", "studies"), plural(2_000, "file")) == ("1 study", "2,000 files")


def test_a_time_is_shown_in_utc() -> None:
    assert moment(NOW.astimezone(timezone(timedelta(hours=2)))) == "2026-11-30 06:00 UTC"
    assert moment(None) == "-"


def test_a_month_begins_in_utc() -> None:
    late = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert month_start(late) == datetime(2026, 11, 1, tzinfo=UTC)
