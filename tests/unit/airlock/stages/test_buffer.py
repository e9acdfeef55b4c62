"""A run's delivery: what lies in its window and nobody has, claimed once and frozen."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
import pytest
from sqlalchemy import delete, select

from airlock.ledger import Ledger
from airlock.ledger.tables import arrivals, runs
from airlock.records import ARRIVALS, DISPOSITIONS, Window, arrival_id
from airlock.run import Run
from airlock.stages.buffer import Buffered, Listing, LostClaimsError, buffer, find_buffered, shard_rows
from airlock.stages.receive import marker_name
from airlock.stages.reporting import describe_untaken
from tests.unit.airlock.world import pipeline, read_arrivals

if TYPE_CHECKING:
    from typing import Any

    from tests.unit.airlock.world import World

HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)


def names(rows: pl.DataFrame) -> list[str]:
    return [key.removeprefix("in/") for key in rows["key"]]


def listed(run: Run) -> pl.DataFrame:
    return pl.concat([ARRIVALS.to_frame(), *Listing(run)])


def seen_at(world: World) -> datetime:
    (item,) = world.s3.list_objects(world.run().prefix)
    return item.last_modified


def seen_at_first(world: World) -> datetime:
    return min(item.last_modified for item in world.s3.list_objects(world.run().prefix))


def settle(run: Run) -> None:
    """End a run: all that it holds is released."""
    rows = read_arrivals(run).select("arrival_id", "key", "size", disposition=pl.lit("released"), stage=pl.lit("audit"))
    missing = {name: pl.lit(None, kind) for name, kind in DISPOSITIONS.items() if name not in rows.columns}
    words = rows.with_columns(**missing).select(DISPOSITIONS.names())
    run.ledger.settle(run.pipeline.name, run.key, words)


class TestWindow:
    @pytest.mark.parametrize(
        ("start", "end", "taken"),
        [(0 * HOUR, TICK, True), (-HOUR, 0 * HOUR, False), (-HOUR, TICK, True), (TICK, HOUR, False)],
        ids=["starts with it", "ends with it", "around it", "starts behind it"],
    )
    def test_it_is_half_open(self, world: World, start: timedelta, end: timedelta, taken: bool) -> None:
        world.put("s3://archive/in/a")
        moment = seen_at(world)
        line = pipeline(source={"lookback_hours": 0})
        run = world.run(line=line, window=Window(moment + start, moment + end))
        assert names(listed(run)) == ["a"] * taken

    def test_two_windows_in_a_row_take_each_object_in_once(self, world: World) -> None:
        for name in "abc":
            world.put(f"s3://archive/in/{name}")
        moment = max(item.last_modified for item in world.s3.list_objects(world.run().prefix))
        line = pipeline(source={"lookback_hours": 0})
        before = listed(world.run(line=line, window=Window(moment - HOUR, moment)))
        after = listed(world.run(line=line, window=Window(moment, moment + HOUR)))
        assert sorted(names(before) + names(after)) == ["a", "b", "c"]

    def test_it_looks_back_for_what_showed_up_late(self, world: World) -> None:
        world.put("s3://archive/in/a")
        moment = seen_at(world)
        line = pipeline(source={"lookback_hours": 2.5})
        edge = Window(moment + 2.5 * HOUR, moment + 3 * HOUR)
        assert names(listed(world.run(line=line, window=edge))) == ["a"]
        later = Window(edge.start + TICK, edge.end)
        assert names(listed(world.run(line=line, window=later))) == []

    def test_without_one_all_below_the_prefix_is_taken_in(self, world: World) -> None:
        for key in ("in/2026/a", "in/2026/b", "in/2027/c", "out/d"):
            world.put(f"s3://archive/{key}")
        assert names(listed(world.run())) == ["2026/a", "2026/b", "2027/c"]
        assert names(listed(world.run(prefix="s3://archive/in/2026/"))) == ["2026/a", "2026/b"]

    def test_an_arrival_is_what_s3_lists(self, world: World) -> None:
        etag = world.put("s3://archive/in/é +%41//x", b"12345")
        world.put("s3://archive/in/folder/", b"")
        (row,) = listed(world.run()).rows(named=True)
        key = "in/é +%41//x"
        assert row["arrival_id"] == arrival_id("archive", key, None, etag, 5)
        assert (row["bucket"], row["key"], row["version_id"], row["etag"], row["size"]) == (
            "archive",
            key,
            None,
            etag,
            5,
        )
        assert row["last_modified"].tzinfo is not None


class TestNightsLeftOut:
    """Airflow starts no run for an interval that went by while it was down, or while other runs waited."""

    def taken(self, world: World, run_id: str, *, catchup: bool = False) -> list[str]:
        """Return what a run of the fourth night takes in, of which the ledger knows the first."""
        for day in (1, 2, 3, 4, 5):
            world.put(f"s3://archive/in/2026/11/0{day}/a")
        line = pipeline(source={"window": "key_date", "lookback_days": 1}, schedule={"catchup": catchup})
        buffer(world.run("scheduled__1", line=line, window=self.night(1)))
        return names(listed(world.run(run_id, line=line, window=self.night(4))))

    def night(self, day: int) -> Window:
        return Window(datetime(2026, 11, day, tzinfo=UTC), datetime(2026, 11, day + 1, tzinfo=UTC))

    def test_the_next_scheduled_run_takes_them_in_and_looks_back(self, world: World) -> None:
        assert self.taken(world, "scheduled__4") == [f"2026/11/0{day}/a" for day in (1, 2, 3, 4)]

    def test_a_backfill_keeps_to_its_interval(self, world: World) -> None:
        assert self.taken(world, "backfill__4") == ["2026/11/04/a"]

    def test_with_catchup_each_has_a_run_of_its_own(self, world: World) -> None:
        assert self.taken(world, "scheduled__4", catchup=True) == ["2026/11/04/a"]

    def test_the_first_scheduled_run_keeps_to_its_interval(self, world: World) -> None:
        world.put("s3://archive/in/2026/11/02/a")
        line = pipeline(source={"window": "key_date", "lookback_days": 1})
        assert names(listed(world.run("scheduled__4", line=line, window=self.night(4)))) == []


class TestKeyDates:
    DAY = Window(datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 11, 25, tzinfo=UTC))

    def taken(self, world: World, window: Window | None, pattern: str | None = None) -> tuple[list[str], int]:
        source = {"window": "key_date", "lookback_days": 2} | ({"key_date_pattern": pattern} if pattern else {})
        listing = Listing(world.run(line=pipeline(source=source), window=window))
        return names(pl.concat([ARRIVALS.to_frame(), *listing])), listing.undated

    def test_the_date_in_the_key_places_an_object(self, world: World) -> None:
        for day in ("2026/11/23", "2026/11/24", "2026/11/25"):
            world.put(f"s3://archive/in/{day}/a")
        assert self.taken(world, self.DAY) == (["2026/11/24/a"], 0)  # a person's window has no look-back

    def test_keys_without_a_date_are_counted_and_left(self, world: World) -> None:
        for key in ("2026/11/24/a", "2026/13/45/b", "2026/02/30/c", "no-date", "0000/01/01/d"):
            world.put(f"s3://archive/in/{key}")
        assert self.taken(world, self.DAY) == (["2026/11/24/a"], 4)
        assert buffer(world.run(line=pipeline(source={"window": "key_date"}), window=self.DAY)).undated == 4

    def test_without_a_window_they_are_taken_in_too(self, world: World) -> None:
        world.put("s3://archive/in/no-date")
        assert self.taken(world, None) == (["no-date"], 1)

    @pytest.mark.parametrize("key", ["2026", "20261124", "2026-11-24-and-99999999999999999999"])
    def test_any_pattern_gives_a_date_or_none(self, world: World, key: str) -> None:
        world.put(f"s3://archive/in/{key}")
        pattern = r"in/(?P<year>\d{4})-?(?P<month>\d\d)?-?(?P<day>\d\d)?(-and-(?P<huge>\d+))?"
        assert self.taken(world, self.DAY, pattern) == (([], 1) if key == "2026" else ([key], 0))
        assert self.taken(world, self.DAY, r"(?P<day>.)(?P<month>.)/(?P<year>\d+)") == ([], 1)

    def test_a_number_that_is_no_year_is_no_date(self, world: World) -> None:
        world.put(f"s3://archive/in/{'9' * 30}/11/24/a")
        assert self.taken(world, self.DAY, r"in/(?P<year>\d+)/(?P<month>\d\d)/(?P<day>\d\d)/") == ([], 1)


class TestClaims:
    def test_the_delivery_is_frozen(self, world: World) -> None:
        world.put("s3://archive/in/a", b"123")
        run = world.run()
        first = buffer(run)
        assert first == Buffered(["0000"], 1, 3, 0, 0, 0)
        world.put("s3://archive/in/late")
        world.s3.delete("archive", ["in/a"])
        assert buffer(run) == first
        assert names(read_arrivals(run)) == ["a"]

    def test_a_try_that_broke_off_before_its_index_keeps_what_it_claimed(self, world: World) -> None:
        world.put("s3://archive/in/a")
        run = world.run()
        buffer(run)
        world.s3.delete("work", [run.workspace.root.join("arrivals/index.json").key])
        assert read_arrivals(run).equals(ARRIVALS.to_frame())
        world.s3.delete("archive", ["in/a"])
        world.put("s3://archive/in/late")
        buffer(run)
        assert names(read_arrivals(run)) == ["a", "late"]

    def test_a_run_that_gave_its_claims_back_claims_again_what_is_there_now(self, world: World) -> None:
        world.put("s3://archive/in/a")
        world.put("s3://archive/in/b")
        run = world.run()
        buffer(run)
        world.ledger.release_claims(run.pipeline.name, run.key)
        world.s3.delete("archive", ["in/a"])
        world.put("s3://archive/in/late")
        assert buffer(run).arrivals == 2
        assert names(read_arrivals(run)) == ["b", "late"]

    def test_a_run_of_which_the_ledger_knows_no_claim_is_refused(self, world: World) -> None:
        """The ledger is a backup from before the run."""
        world.put("s3://archive/in/a")
        run = world.run()
        buffer(run)
        with world.ledger._engine.begin() as connection:
            connection.execute(delete(arrivals))
            connection.execute(delete(runs))
        with pytest.raises(LostClaimsError, match=r"froze 1 arrivals, but the ledger holds 0 .* Nothing was claimed"):
            buffer(run)
        assert world.ledger.held_total(run.pipeline.name, run.key) == (0, 0)

    def test_a_second_run_over_the_same_listing_gets_nothing(self, world: World) -> None:
        world.put("s3://archive/in/a")
        one = world.run("one")
        buffer(one)
        waiting = buffer(world.run("two"))
        assert (waiting.arrivals, waiting.claimed_elsewhere, waiting.settled, waiting.shards) == (0, 1, 0, [])
        settle(one)
        done = buffer(world.run("three"))
        assert (done.arrivals, done.claimed_elsewhere, done.settled) == (0, 0, 1)
        told = [describe_untaken(world.run(name))["listed_too"] for name in ("one", "two", "three")]
        assert [(one["claimed_elsewhere"], one["settled"]) for one in told] == [(0, 0), (1, 0), (0, 1)]
        assert read_arrivals(world.run("three")).height == 0

    def test_an_object_that_was_overwritten_is_a_new_arrival(self, world: World) -> None:
        world.put("s3://archive/in/a", b"old")
        world.put("s3://archive/in/b", b"stays")
        one = world.run("one")
        buffer(one)
        settle(one)
        new = world.put("s3://archive/in/a", b"new")
        two = world.run("two")
        assert buffer(two).settled == 1
        assert read_arrivals(two)["etag"].to_list() == [new]

    def test_another_pipeline_has_arrivals_of_its_own(self, world: World) -> None:
        world.put("s3://archive/in/a")
        buffer(world.run())
        assert buffer(world.run(line=pipeline(name="weekly"))).arrivals == 1

    def test_nightly_and_woken_runs_at_once_never_share(self, world: World) -> None:
        for number in range(30):
            world.put(f"s3://archive/in/{number:02}")
        night = Window(seen_at_first(world) - HOUR, seen_at_first(world) + HOUR)
        runs = [world.run(f"run-{number}", window=window) for number, window in enumerate((None, night, None, night))]
        start, url = threading.Barrier(len(runs)), world.ledger._engine.url.render_as_string()

        def work(run: Run) -> None:
            with Ledger.open(url) as ledger:
                start.wait(30)
                buffer(Run(run.pipeline, run.run_id, run.window, run.prefix, run.s3, ledger))

        with ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(work, runs))
        held = pl.concat([read_arrivals(run) for run in runs])
        assert held.height == held["arrival_id"].n_unique() == 30


class TestOwed:
    """Objects that must come again, whatever their date."""

    LINE = pipeline(source={"window": "key_date"}, schedule={"cron": "@yearly"})
    YEAR = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))

    def give_back(self, world: World) -> None:
        """Let a run take an object of long ago, and give it back."""
        world.put("s3://archive/in/2020/02/02/a")
        first = world.run("manual__1", self.LINE)
        assert buffer(first).arrivals == 1
        world.ledger.release_claims(self.LINE.name, first.key)

    def due(self, world: World, hours: float) -> list[str]:
        frames = world.ledger.owed_keys("nightly", "archive", datetime.now(UTC) + hours * HOUR)
        return [key for frame in frames for key in frame["key"]]

    def test_a_scheduled_run_takes_what_was_given_back(self, world: World) -> None:
        self.give_back(world)
        run = world.run("scheduled__1", self.LINE, self.YEAR)
        assert buffer(run).arrivals == 1
        assert names(read_arrivals(run)) == ["2020/02/02/a"]
        assert world.ledger.count_owed().is_empty()  # it is with this run

    @pytest.mark.parametrize(("run_id", "prefix"), [("backfill__1", None), ("scheduled__1", "s3://archive/in/2026/")])
    def test_a_run_that_is_limited_on_purpose_leaves_it(self, world: World, run_id: str, prefix: str | None) -> None:
        self.give_back(world)
        assert buffer(world.run(run_id, self.LINE, self.YEAR, prefix)).arrivals == 0
        assert world.ledger.count_owed()["waiting"].to_list() == [1]

    def test_a_plan_shows_it_and_leaves_it_owed(self, world: World) -> None:
        self.give_back(world)
        assert buffer(world.run("scheduled__1", self.LINE, self.YEAR).as_plan()).arrivals == 1
        assert world.ledger.count_owed()["waiting"].to_list() == [1]

    def test_one_that_is_gone_is_tried_with_pauses_until_it_is_overdue(self, world: World) -> None:
        self.give_back(world)
        world.s3.delete("archive", ["in/2020/02/02/a"])
        key = "in/2020/02/02/a"
        for number in range(4):
            buffer(world.run(f"scheduled__{number}", self.LINE, self.YEAR))
        assert [self.due(world, hours) for hours in (0, 2)] == [[], [key]]

        impatient = self.LINE.model_copy(update={"source": self.LINE.source.model_copy(update={"owed_days": 1e-9})})
        buffer(world.run("scheduled__9", impatient, self.YEAR))
        assert world.ledger.count_owed().select("waiting", "overdue", "untold").row(0) == (0, 1, 1)

    def test_one_that_was_owed_long_ago_is_tried_before_it_is_overdue(self, world: World) -> None:
        """No run may have tried it: the DAG was paused."""
        self.give_back(world)
        impatient = self.LINE.model_copy(update={"source": self.LINE.source.model_copy(update={"owed_days": 1e-9})})
        assert buffer(world.run("scheduled__1", impatient, self.YEAR)).arrivals == 1

    def test_an_overdue_one_waits_for_a_person(self, world: World) -> None:
        self.give_back(world)
        world.ledger.end_owed("nightly", datetime.now(UTC))
        assert buffer(world.run("scheduled__1", self.LINE, self.YEAR)).arrivals == 0
        assert buffer(world.run("manual__2", self.LINE)).arrivals == 1


class TestMarker:
    LINE = pipeline(receive={"mode": "marker"})

    def used(self, world: World, run: Run) -> datetime | None:
        return world.ledger.used_marker(run.pipeline.name, run.key, marker_name(run.prefix, run.pipeline.receive))

    def test_the_marker_that_was_there_belongs_to_the_run(self, world: World) -> None:
        world.put("s3://archive/in/_SUCCESS", b"")
        one, two = world.run("one", self.LINE), world.run("two", self.LINE)
        assert self.used(world, two) is None
        buffer(one)
        assert self.used(world, two) == seen_at(world)
        assert self.used(world, one) is None  # its delivery is frozen, and it waits for no other

    def test_a_marker_below_another_prefix_is_another_one(self, world: World) -> None:
        world.put("s3://archive/in/2026/_SUCCESS", b"")
        buffer(world.run("one", self.LINE, prefix="s3://archive/in/2026/"))
        assert self.used(world, world.run("two", self.LINE)) is None

    def test_without_one_none_is_used(self, world: World) -> None:
        buffer(world.run("one", self.LINE))
        assert self.used(world, world.run("two", self.LINE)) is None


class TestShards:
    @pytest.mark.parametrize(
        ("settings", "sizes"),
        [
            ({"shard_size": 3}, [3, 3, 1]),
            ({"shard_size": 7}, [7]),
            ({"shard_size": 1, "max_shards": 4}, [2, 2, 2, 1]),
            ({"shard_size": 1, "max_shards": 1}, [7]),
        ],
    )
    def test_they_are_bounded_in_number_and_share_nothing(
        self, world: World, settings: dict[str, Any], sizes: list[int]
    ) -> None:
        for number in range(7):
            world.put(f"s3://archive/in/{number}")
        run = world.run(line=pipeline(parse=settings))
        buffered = buffer(run)
        frames = [run.workspace.read(f"arrivals/{shard}", ARRIVALS) for shard in buffered.shards]
        assert [frame.height for frame in frames] == sizes
        assert names(pl.concat(frames)) == [str(number) for number in range(7)]
        assert read_arrivals(run).height == 7

    def test_frames_of_any_size_make_the_same_shards(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(7):
            world.put(f"s3://archive/in/{number}")
        line = pipeline(parse={"shard_size": 3})
        whole, pieces = world.run("whole", line), world.run("pieces", line.model_copy(update={"name": "weekly"}))
        expected = buffer(whole)
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
        monkeypatch.setattr("airlock.storage.listing.FRAME_ROWS", 1)
        monkeypatch.setattr("airlock.ledger.frames.CHUNK", 2)
        assert buffer(pieces) == expected
        for shard in expected.shards:
            frames = [run.workspace.read(f"arrivals/{shard}", ARRIVALS) for run in (whole, pieces)]
            assert frames[0].equals(frames[1])

    def test_fifty_million_arrivals_stay_below_what_airflow_maps(self) -> None:
        settings = pipeline().parse
        shards = [-(-arrivals // shard_rows(settings, arrivals)) for arrivals in (1, 25_000, 1_000_000, 50_000_000)]
        assert shards == [1, 1, 40, 1000]

    def test_an_empty_delivery_has_none_and_is_still_a_delivery(self, world: World) -> None:
        run = world.run()
        assert buffer(run) == Buffered([], 0, 0, 0, 0, 0)
        assert find_buffered(run) is not None
        assert read_arrivals(run).equals(ARRIVALS.to_frame())
        assert buffer(run).arrivals == 0


def test_the_claims_name_the_sites_by_which_the_ledger_counts(world: World) -> None:
    world.put("s3://archive/in/north/1.dcm")
    world.put("s3://archive/in/2.dcm")
    line = pipeline(source={"site_pattern": "^in/(?P<site>[^/]+)/"})
    buffer(world.run("one", line))
    with world.ledger._reading() as connection:
        rows = connection.execute(select(arrivals.c.key, arrivals.c.site))
        assert {key: site for key, site in rows} == {"in/north/1.dcm": "north", "in/2.dcm": ""}  # noqa: C416
