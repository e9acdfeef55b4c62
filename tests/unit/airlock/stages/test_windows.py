"""Which moments and which days belong to a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from airlock.pipelines import Source
from airlock.records import ARRIVALS, Window
from airlock.run import RedriveRequest
from airlock.stages.windows import Bounds, find_bounds, is_asked_for, is_newest, moments, owns_a_day, takes_owed
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from airlock.pipelines import ImagingPipeline
    from airlock.run import Run
    from tests.unit.airlock.world import World

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Window(datetime(2026, 3, 10, 2, tzinfo=UTC), datetime(2026, 3, 11, 2, tzinfo=UTC))
IN_THE_MORNING = NIGHT.end + HOUR  # the interval is the newest one
DAYS_LATER = NIGHT.end + 3 * DAY


def days(bounds: Bounds) -> tuple[str | None, str | None]:
    """Return the bounds of key dates as month and day."""
    first, last = (
        None if number is None else f"{date.fromordinal(number):%m-%d}" for number in (bounds.first, bounds.last)
    )
    return first, last


def hours(bounds: Bounds) -> tuple[float, float | None]:
    """Return the bounds of moments in hours from the night's beginning, the upper one excluded."""
    first, last = (
        None if moment is None else round((moment + more) / 3.6e9 - NIGHT.start.timestamp() / 3600, 6)
        for moment, more in ((bounds.first, 0), (bounds.last, 1))
    )
    assert first is not None
    return first, last


def dated(**schedule: Any) -> ImagingPipeline:
    return pipeline(source={"window": "key_date"}, schedule=schedule)


def committed(world: World, number: int, line: ImagingPipeline) -> None:
    """Let the scheduled run of so many nights after the night claim what it lists, which is nothing."""
    window = Window(NIGHT.start + number * DAY, NIGHT.end + number * DAY)
    run = world.run(f"scheduled__{number}", line, window)
    world.ledger.open_run(run.key, line.name, run.run_id, window)
    world.ledger.claim(line.name, run.key, ARRIVALS.to_frame(), window.end)


class TestNewest:
    def test_the_scheduled_run_of_the_last_interval_that_ended_is_the_newest(self, world: World) -> None:
        run = world.run("scheduled__1", window=NIGHT)
        assert is_newest(run, NIGHT.end)
        assert is_newest(run, NIGHT.end + DAY - HOUR)
        assert not is_newest(run, NIGHT.end + DAY)

    def test_the_cron_says_when_the_next_interval_ends(self, world: World) -> None:
        weekly = world.run("scheduled__1", pipeline(schedule={"cron": "0 2 * * 3"}), NIGHT)  # March 11 is a Wednesday
        assert is_newest(weekly, NIGHT.end + 6 * DAY)

    @pytest.mark.parametrize("run_id", ["backfill__1", "manual__1", "asset_triggered__1"])
    def test_no_other_run_is(self, world: World, run_id: str) -> None:
        assert not is_newest(world.run(run_id, window=NIGHT), NIGHT.end)

    def test_nor_one_without_an_interval(self, world: World) -> None:
        assert not is_newest(world.run("scheduled__1"), NIGHT.end)


class TestMoments:
    """The bounds with ``window: last_modified``, in hours from the beginning of the interval."""

    LINE = pipeline(source={"lookback_hours": 5})

    def test_the_newest_scheduled_run_has_no_upper_bound(self, world: World) -> None:
        run = world.run("scheduled__1", self.LINE, NIGHT)
        assert hours(find_bounds(run, IN_THE_MORNING)) == (-5, None)
        assert hours(find_bounds(run, DAYS_LATER)) == (-5, 24)

    @pytest.mark.parametrize("run_id", ["backfill__1", "manual__1"])
    def test_a_backfill_and_a_persons_window_end_where_they_end(self, world: World, run_id: str) -> None:
        assert hours(find_bounds(world.run(run_id, self.LINE, NIGHT), IN_THE_MORNING)) == (-5, 24)

    def test_a_night_without_a_claim_is_taken_by_the_next_scheduled_run(self, world: World) -> None:
        committed(world, -3, self.LINE)
        failed = world.run("scheduled__failed", self.LINE, Window(NIGHT.start - DAY, NIGHT.start))
        world.ledger.open_run(failed.key, self.LINE.name, failed.run_id, failed.window)
        assert hours(find_bounds(world.run("scheduled__1", self.LINE, NIGHT), DAYS_LATER)) == (-48 - 5, 24)
        assert hours(find_bounds(world.run("backfill__1", self.LINE, NIGHT), DAYS_LATER)) == (-5, 24)

    def test_so_are_first_nights_that_all_failed(self, world: World) -> None:
        for ago in (2, 1):
            window = Window(NIGHT.start - ago * DAY, NIGHT.end - ago * DAY)
            run = world.run(f"scheduled__{ago}", self.LINE, window)
            world.ledger.open_run(run.key, self.LINE.name, run.run_id, window)
        assert hours(find_bounds(world.run("scheduled__0", self.LINE, NIGHT), IN_THE_MORNING)) == (-48 - 5, None)

    def test_with_catchup_an_older_interval_keeps_to_itself(self, world: World) -> None:
        line = pipeline(schedule={"catchup": True}, source={"lookback_hours": 0})
        committed(world, -3, line)
        run = world.run("scheduled__1", line, NIGHT)
        assert hours(find_bounds(run, DAYS_LATER)) == (0, 24)
        assert hours(find_bounds(run, IN_THE_MORNING)) == (-48, None)


class TestDays:
    """The bounds with ``window: key_date``, as local days."""

    @pytest.mark.parametrize(
        ("zone", "start", "end", "owned"),
        [
            ("UTC", "2026-03-10T02:00+00:00", "2026-03-11T02:00+00:00", ("03-10", "03-10")),
            ("UTC", "2026-03-10T00:00+00:00", "2026-03-11T00:00+00:00", ("03-10", "03-10")),
            ("America/Chicago", "2026-03-10T00:00-05:00", "2026-03-11T00:00-05:00", ("03-10", "03-10")),
            ("Asia/Tokyo", "2026-03-10T02:00+09:00", "2026-03-11T02:00+09:00", ("03-10", "03-10")),
            ("Europe/Berlin", "2026-03-28T02:00+01:00", "2026-03-29T03:00+02:00", ("03-28", "03-28")),  # clocks go on
            ("Europe/Berlin", "2026-03-09T02:00+01:00", "2026-03-16T02:00+01:00", ("03-09", "03-15")),
        ],
    )
    def test_a_run_owns_the_days_that_end_in_its_interval(
        self, world: World, zone: str, start: str, end: str, owned: tuple[str, str]
    ) -> None:
        window = Window(datetime.fromisoformat(start), datetime.fromisoformat(end))
        run = world.run("backfill__1", dated(timezone=zone), window)
        assert days(find_bounds(run, window.end)) == owned
        assert owns_a_day(window, run.pipeline.schedule)

    def test_intervals_in_a_row_own_each_day_once(self, world: World) -> None:
        line, start = dated(timezone="Europe/Berlin"), datetime(2026, 10, 20, 2, tzinfo=BERLIN)
        windows = [Window(start + n * 6 * HOUR, start + (n + 1) * 6 * HOUR) for n in range(40)]
        bounds = [find_bounds(world.run("backfill__1", line, window), start) for window in windows]
        owned = [day for one in bounds for day in range(one.first or 0, (one.last or 0) + 1)]
        assert owned == list(range(owned[0], owned[0] + 10))  # across the day on which the clocks go back

    def test_an_interval_in_which_no_day_ends_owns_none(self, world: World) -> None:
        noon = Window(NIGHT.start + 8 * HOUR, NIGHT.start + 12 * HOUR)
        bounds = find_bounds(world.run("backfill__1", dated(), noon), noon.end)
        rows = pl.DataFrame({"moment": [noon.start.toordinal() + more for more in (-1, 0, 1)]})
        assert rows.filter(bounds.contain("moment")).is_empty()
        assert not owns_a_day(noon, dated().schedule)

    def test_scheduled_runs_look_back(self, world: World) -> None:
        run = world.run("scheduled__1", dated(), NIGHT)
        assert days(find_bounds(run, IN_THE_MORNING)) == ("03-07", None)
        assert days(find_bounds(run, DAYS_LATER)) == ("03-07", "03-10")

    def test_runs_of_a_catchup_do_not_until_the_newest_interval(self, world: World) -> None:
        run = world.run("scheduled__1", dated(catchup=True), NIGHT)
        assert days(find_bounds(run, DAYS_LATER)) == ("03-10", "03-10")
        assert days(find_bounds(run, IN_THE_MORNING)) == ("03-07", None)


class TestOfAnObject:
    def test_its_time_counts_in_microseconds(self) -> None:
        times = pl.Series("last_modified", [NIGHT.start], pl.Datetime("us", "UTC"))
        found = moments(Source(uri="s3://archive/in/"), pl.DataFrame({"key": ["in/a"], "last_modified": times}))
        assert found.to_list() == [int(NIGHT.start.timestamp() * 10**6)]

    def test_the_date_in_its_key_counts_in_days(self) -> None:
        source = Source(uri="s3://archive/in/", window="key_date")
        found = moments(source, pl.DataFrame({"key": ["in/2026/03/10/a", "in/2026/02/30/a", "in/a"]}))
        assert found.to_list() == [date(2026, 3, 10).toordinal(), None, None]

    def test_without_bounds_an_object_needs_no_moment(self) -> None:
        rows = pl.DataFrame({"moment": [None, 3]}, schema={"moment": pl.Int64})
        assert rows.filter(Bounds().contain("moment")).height == 2
        assert rows.filter(Bounds(1).contain("moment"))["moment"].to_list() == [3]
        assert rows.filter(Bounds(1, 2).contain("moment")).is_empty()


class TestOwed:
    """Who takes what is owed."""

    @pytest.mark.parametrize(
        ("run_id", "window", "prefix", "taken"),
        [
            ("scheduled__1", NIGHT, None, True),
            ("asset_triggered__1", None, None, True),
            ("manual__1", None, None, True),
            ("manual__1", NIGHT, None, False),
            ("manual__1", None, "s3://archive/in/2026/", False),
            ("backfill__1", NIGHT, None, False),
        ],
    )
    def test_runs_without_prefix_and_window_take_it(
        self, world: World, run_id: str, window: Window | None, prefix: str | None, taken: bool
    ) -> None:
        assert takes_owed(world.run(run_id, window=window, prefix=prefix)) == taken

    def test_a_redrive_does_not(self, world: World) -> None:
        run: Run = replace(world.run("manual__1"), redrive=RedriveRequest("an operator", "the cause is cured"))
        assert not takes_owed(run)

    def test_a_person_need_not_wait_for_the_next_attempt(self, world: World) -> None:
        by_person = {name: is_asked_for(world.run(f"{name}__1")) for name in ("manual", "backfill", "scheduled")}
        assert by_person == {"manual": True, "backfill": True, "scheduled": False}
        assert not is_asked_for(world.run("asset_triggered__1"))
