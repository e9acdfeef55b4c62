"""The night window goes by the clock on the wall, over midnight and when the clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airlock.pipelines import ImportWindow
from airlock.stages.import_window import hours_open, is_open, opens_at

MINUTE = timedelta(minutes=1)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo")
CLOCKS = st.times().map(lambda clock: f"{clock:%H:%M}")
WINDOWS = st.builds(
    lambda pair, zone: ImportWindow(start=pair[0], end=pair[1], timezone=zone),
    st.tuples(CLOCKS, CLOCKS).filter(lambda pair: pair[0] != pair[1]),
    st.sampled_from(ZONES),
)
MOMENTS = st.datetimes(datetime(2015, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  (st wants it so)
NIGHT = ImportWindow(start="20:00", end="06:00", timezone="Europe/Berlin")
# Europe/Berlin springs from 02:00 to 03:00 on 2026-03-29 (01:00 UTC), and falls from 03:00 to 02:00 on 2026-10-25.
SPRING, FALL = datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)


def berlin(start: str, end: str) -> ImportWindow:
    return ImportWindow(start=start, end=end, timezone="Europe/Berlin")


def wall(window: ImportWindow, moment: datetime) -> time:
    return moment.astimezone(ZoneInfo(window.timezone)).time()


def shows(window: ImportWindow, clock: time) -> bool:
    """Say whether a time of day is in the window, by counting minutes from its start."""

    def minutes(text: str) -> int:
        return int(text[:2]) * 60 + int(text[3:])

    start, end = minutes(window.start), minutes(window.end)
    return (clock.hour * 60 + clock.minute - start) % 1440 < (end - start) % 1440


@given(WINDOWS, MOMENTS)
@example(NIGHT, SPRING)
@example(NIGHT, FALL)
def test_no_job_starts_while_the_clock_shows_a_time_outside(window: ImportWindow, now: datetime) -> None:
    opening = opens_at(window, now)
    assert opening >= now
    assert shows(window, wall(window, opening))
    assert is_open(window, now) == shows(window, wall(window, now)) == (opening == now)


@given(WINDOWS, MOMENTS)
@example(berlin("02:30", "04:00"), SPRING)
@example(berlin("20:00", "02:30"), FALL)
def test_it_opens_as_early_as_it_may(window: ImportWindow, now: datetime) -> None:
    opening = opens_at(window, now)
    before = opening - MINUTE
    assert opening == now or before < now or not is_open(window, before)
    # Never longer than a day, and the hour of a changed clock, twice where the whole window is skipped.
    assert opening - now <= timedelta(hours=50)
    assert opens_at(window, opening) == opening


@pytest.mark.parametrize(
    ("window", "now", "opening"),
    [
        (NIGHT, "2026-11-26T12:00+01:00", "2026-11-26T20:00+01:00"),
        (NIGHT, "2026-11-26T23:59+01:00", "2026-11-26T23:59+01:00"),
        (NIGHT, "2026-11-27T00:00+01:00", "2026-11-27T00:00+01:00"),
        (NIGHT, "2026-11-27T05:59:59+01:00", "2026-11-27T05:59:59+01:00"),
        (NIGHT, "2026-11-27T06:00+01:00", "2026-11-27T20:00+01:00"),
        (berlin("22:00", "00:00"), "2026-11-27T00:00+01:00", "2026-11-27T22:00+01:00"),
        (berlin("00:00", "04:00"), "2026-11-26T23:59:30+01:00", "2026-11-27T00:00+01:00"),
        (NIGHT, "2026-03-28T12:00+01:00", "2026-03-28T20:00+01:00"),
        (NIGHT, "2026-03-29T06:00+02:00", "2026-03-29T20:00+02:00"),
        (berlin("02:30", "04:00"), "2026-03-29T01:59+01:00", "2026-03-29T03:00+02:00"),
        (berlin("02:15", "02:45"), "2026-03-29T01:59+01:00", "2026-03-30T02:15+02:00"),
        (berlin("02:30", "04:00"), "2026-10-25T02:30+02:00", "2026-10-25T02:30+02:00"),
        (berlin("02:30", "04:00"), "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"),
        (berlin("20:00", "02:30"), "2026-10-25T02:45+02:00", "2026-10-25T02:00+01:00"),
        (berlin("20:00", "02:30"), "2026-10-25T02:30+01:00", "2026-10-25T20:00+01:00"),
    ],
    ids=[
        "by day it waits for the evening",
        "open before midnight",
        "open at midnight",
        "open to the last second",
        "closed at its end",
        "an end at midnight",
        "a start at midnight",
        "the day before spring",
        "the day after spring",
        "a start that is skipped comes when the clock jumps",
        "a window that is skipped comes the next day",
        "a start that is shown twice, the first time",
        "a start that is shown twice, the second time",
        "an end that is shown twice: open again when the clock falls",
        "an end that is shown twice, the second time",
    ],
)
def test_the_moments_that_people_ask_about(window: ImportWindow, now: str, opening: str) -> None:
    assert opens_at(window, datetime.fromisoformat(now)) == datetime.fromisoformat(opening)


@pytest.mark.parametrize(("start", "end", "hours"), [("20:00", "06:00", 10), ("01:30", "02:00", 0.5)])
def test_hours_of_a_night(start: str, end: str, hours: float) -> None:
    assert hours_open(berlin(start, end)) == hours
