"""A delivery that is too large for one run: listed once, cut at folder borders, and taken wave by wave."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.ledger import Ledger
from airlock.records import Window
from airlock.run import Run, WaveOf
from airlock.stages.buffer import buffer
from airlock.stages.waves import (
    Border,
    WaveError,
    WaveLimits,
    Waves,
    choose_cuts,
    find_borders,
    find_next_wave,
    find_waves,
    read_wave,
)
from tests.unit.airlock.ledger.samples import dispositions
from tests.unit.airlock.world import pipeline, read_arrivals

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

THREE = pipeline(waves={"objects": 3})
TODAY = datetime.now(UTC)
DAY = timedelta(days=1)
NIGHT = Window(TODAY - DAY, TODAY + timedelta(hours=1))
NO_LIMIT = 10**12
FOLDERS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(1, 9)), max_size=12)


def delivered(world: World, *keys: str, run_id: str = "one", window: Window | None = None) -> Run:
    for key in keys:
        world.put(f"s3://archive/in/{key}")
    return world.run(run_id, THREE, window)


def cut(run: Run) -> Waves:
    """Let the first wave claim and return the waves of its delivery."""
    buffer(run)
    waves = find_waves(run)
    assert waves is not None
    return waves


def following(run: Run) -> Run:
    """Return the run that the task next_wave starts."""
    found = find_next_wave(run)
    assert found is not None
    run_id, params = found
    return replace(run, run_id=run_id, window=None, wave=WaveOf(params["wave_of"], params["wave"]))


def names(run: Run) -> list[str]:
    return [key.removeprefix("in/") for key in read_arrivals(run)["key"]]


def taken(run: Run) -> list[list[str]]:
    """Take all waves of a delivery; return the keys of each."""
    waves = [run]
    buffer(run)
    while find_next_wave(waves[-1]) is not None:
        waves.append(following(waves[-1]))
        buffer(waves[-1])
    return [names(wave) for wave in waves]


class TestCut:
    def test_a_delivery_that_one_run_can_take_has_no_waves(self, world: World) -> None:
        run = delivered(world, "a/1", "a/2", "b/1")
        assert taken(run) == [["a/1", "a/2", "b/1"]]
        assert find_waves(run) is None

    def test_each_wave_has_whole_folders(self, world: World) -> None:
        keys = ["a/1", "a/2", "b/1", "b/2", "c/1", "d/1", "d/2"]
        assert taken(delivered(world, *keys)) == [["a/1", "a/2"], ["b/1", "b/2", "c/1"], ["d/1", "d/2"]]

    def test_a_folder_that_is_larger_than_a_wave_is_cut(self, world: World) -> None:
        assert taken(delivered(world, *(f"flat{number}" for number in range(7)))) == [
            ["flat0", "flat1", "flat2"],
            ["flat3", "flat4", "flat5"],
            ["flat6"],
        ]

    def test_the_folders_below_the_source_that_waves_share_are_known(self, world: World) -> None:
        run = delivered(world, "a/x/1", "a/x/2", "a/y/1", "a/y/2", "a/z/1", "a/z/2", "b/x/1", "b/x/2")
        waves = cut(run)
        assert [wave.objects for wave in waves.waves] == [2, 2, 2, 2]
        assert [waves.find_sharing(number) for number in (1, 2, 3, 4)] == [
            {"a": [2, 3]},
            {"a": [1, 3]},
            {"a": [1, 2]},
            {},
        ]

    def test_a_wave_shares_its_first_and_its_last_folder(self, world: World) -> None:
        waves = cut(delivered(world, "a/1", "a/2", "a/3", "a/4", "b/1", "c/1", "c/2"))
        assert [wave.objects for wave in waves.waves] == [3, 2, 2]
        assert [waves.find_sharing(number) for number in (1, 2, 3)] == [{"a": [2]}, {"a": [1]}, {}]

    def test_objects_beside_the_folders_may_be_of_the_same_studies(self, world: World) -> None:
        waves = cut(delivered(world, "0", "a/1", "a/2", "b/1", "b/2", "b/3", "c", "d/1"))
        sharing = [waves.find_sharing(number) for number in range(1, len(waves.waves) + 1)]
        assert [wave.objects for wave in waves.waves] == [3, 3, 2]
        assert sharing == [{"": [3]}, {}, {"": [1]}]

    def test_folders_are_those_below_the_prefix_of_the_run(self, world: World) -> None:
        delivered(world, *(f"site/{folder}/{number}" for folder in "ab" for number in (1, 2)))
        waves = cut(world.run("one", THREE, prefix="s3://archive/in/site/"))
        assert [waves.find_sharing(number) for number in (1, 2)] == [{}, {}]

    def test_the_largest_folders_are_kept_whole_where_a_wave_is_nearly_full(self) -> None:
        keys = ["a/1/x", "a/1/y", "a/1/z", "b/1/x", "b/1/y", "b/2/x", "b/2/y"]
        assert self.cuts(keys, most=4) == [3]
        assert self.cuts(["a/1/x", "a/1/y", "b/1/x", "b/1/y", "b/2/x", "b/2/y"], most=4) == [4]

    def test_a_wave_keeps_to_its_bytes_too(self) -> None:
        keys = [f"{name}/1" for name in "abcdef"]
        assert self.cuts(keys, most=100, size=10, most_bytes=25) == [2, 4]

    def test_an_object_that_is_larger_than_a_wave_is_one(self) -> None:
        assert self.cuts(["a/1", "b/1", "c/1"], most=100, size=50, most_bytes=25) == [1, 2]

    def test_a_folder_of_large_files_is_cut_by_their_bytes(self) -> None:
        """A wave of 5,000 objects may be cut within a folder at every 50th; these are more bytes than a wave has."""
        keys = [f"slides/{number:02}" for number in range(30)]
        assert self.cuts(keys, most=5000, size=10, most_bytes=70, frame_rows=4) == [7, 14, 21, 28]

    @settings(max_examples=200)
    @given(FOLDERS, st.integers(1, 12), st.integers(1, 5))
    def test_any_delivery_is_cut_into_parts_within_the_limit(
        self, folders: list[tuple[str, str, int]], most: int, frame_rows: int
    ) -> None:
        keys = sorted({f"{top}/{low}/{number}" for top, low, files in folders for number in range(files)})
        cuts = self.cuts(keys, most, frame_rows=frame_rows)
        ends = [0, *cuts, len(keys)]
        assert all(0 < end - start <= most for start, end in pairwise(ends) if keys)
        for cut in cuts:
            parent = keys[cut].rpartition("/")[0]
            first = max(end for end in ends if end < cut)
            inside = parent == keys[cut - 1].rpartition("/")[0]
            crossed = any(a.rpartition("/")[0] != b.rpartition("/")[0] for a, b in pairwise(keys[first : first + most]))
            assert not (inside and crossed), "a folder is cut only if it fills the wave"

    def cuts(
        self, keys: list[str], most: int, size: int = 1, most_bytes: int = NO_LIMIT, frame_rows: int = 2
    ) -> list[int]:
        rows = pl.DataFrame({"key": keys, "size": [size] * len(keys)}, schema={"key": pl.String, "size": pl.Int64})
        limits = WaveLimits(most, most_bytes)
        borders = find_borders(rows.iter_slices(frame_rows) if keys else [], limits)
        return choose_cuts(borders, Border(len(keys), size * len(keys), 0), limits)


class TestTurns:
    KEYS = ("a/1", "a/2", "b/1", "b/2", "c/1")

    def test_the_source_is_listed_once(self, world: World) -> None:
        run = delivered(world, *self.KEYS)
        buffer(run)
        world.put("s3://archive/in/a/late")
        world.put("s3://archive/in/c/late")
        assert "late" not in "".join(read_wave(run, 2).__next__()["key"])
        buffer(following(run))
        assert names(following(run)) == ["b/1", "b/2", "c/1"]

    def test_a_wave_that_is_buffered_again_has_the_same_part(self, world: World) -> None:
        run = delivered(world, *self.KEYS)
        first = buffer(run)
        second = buffer(following(run))
        assert (buffer(run), buffer(following(run))) == (first, second)

    def test_a_first_wave_whose_claims_were_given_back_claims_its_part_again(self, world: World) -> None:
        run = delivered(world, *self.KEYS)
        buffer(run)
        world.ledger.release_claims("nightly", run.key)
        world.s3.delete("work", [run.workspace.root.join("arrivals/index.json").key])
        buffer(run)
        assert names(run) == ["a/1", "a/2"]

    def test_what_another_run_has_taken_meanwhile_is_not_taken_again(self, world: World) -> None:
        run = delivered(world, *self.KEYS)
        buffer(run)
        other = world.run("other", pipeline(), prefix="s3://archive/in/b/")
        buffer(other)
        counts = buffer(following(run))
        assert (names(other), names(following(run))) == (["b/1", "b/2"], ["c/1"])
        assert counts.claimed_elsewhere == 2

    def test_a_window_counts_as_taken_when_the_last_wave_has_claimed(self, world: World) -> None:
        run = delivered(world, *self.KEYS, run_id="scheduled__1", window=NIGHT)
        later = NIGHT.end + timedelta(days=1)
        buffer(run)
        assert world.ledger.scheduled_until("nightly", later) == NIGHT.start
        buffer(following(run))
        assert world.ledger.scheduled_until("nightly", later) == NIGHT.end

    def test_after_two_nights_whose_waves_never_began_the_next_night_takes_what_they_left(self, world: World) -> None:
        """The second night lists what the first has left as well, so its window begins where that of the first does."""
        line = pipeline(waves={"objects": 3}, source={"lookback_hours": 0})
        ends = [NIGHT.start, NIGHT.end, NIGHT.end + DAY, NIGHT.end + 2 * DAY]
        nights = [world.run(f"scheduled__{end}", line, Window(start, end)) for start, end in pairwise(ends)]
        delivered(world, *self.KEYS)
        for night in nights[:2]:
            buffer(night)
            assert find_next_wave(night) is not None
        assert [names(night) for night in nights[:2]] == [["a/1", "a/2"], []]
        assert taken(nights[2]) == [[], ["b/1", "b/2", "c/1"]]

    def test_a_wave_waits_for_the_claim_of_the_one_before(self, world: World) -> None:
        run = delivered(world, *(f"{name}/1" for name in "abcdefgh"))
        buffer(run)
        third = replace(run, run_id="wave_0003__one", wave=WaveOf("one", 3))
        with pytest.raises(WaveError, match="Wave 2 has not claimed its objects: see the task buffer of run wave_0002"):
            buffer(third)

    @pytest.mark.parametrize("number", [1, 3, 9])
    def test_a_wave_that_does_not_exist_is_refused(self, world: World, number: int) -> None:
        run = delivered(world, *self.KEYS)
        buffer(run)
        with pytest.raises(WaveError, match=rf"has 2 waves, not a wave {number}\."):
            buffer(replace(run, run_id="x", wave=WaveOf("one", number)))

    def test_a_run_without_waves_is_named(self, world: World) -> None:
        run: Any = replace(world.run(), wave=WaveOf("other", 2))
        with pytest.raises(WaveError, match="run 'other' has no waves"):
            buffer(run)


class TestOwed:
    """What is owed comes again in whatever wave it lies, and counts as missed once all waves have claimed."""

    YEAR = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    NIGHTS = pipeline(source={"window": "key_date"}, schedule={"cron": "@yearly"}, waves={"objects": 3})

    def owe(self, world: World, key: str) -> None:
        """Let a run settle an object that it could not read."""
        run = world.run("manual__1", self.NIGHTS)
        world.put(f"s3://archive/in/{key}")
        buffer(run)
        (held,) = world.ledger.held_by(self.NIGHTS.name, run.key)["arrival_id"]
        word = dispositions("a", word="quarantined", study_uid=None).with_columns(
            reason=pl.lit("access_denied"), arrival_id=pl.lit(held)
        )
        world.ledger.settle(self.NIGHTS.name, run.key, word)

    def deliver(self, world: World) -> Run:
        for day in range(1, 8):
            world.put(f"s3://archive/in/aa/2026/03/0{day}/x")
        return world.run("scheduled__1", self.NIGHTS, self.YEAR)

    @pytest.mark.parametrize("key", ["aa/2020/02/02/a", "zz/2020/02/02/a"])
    def test_it_is_taken_by_the_wave_that_has_it(self, world: World, key: str) -> None:
        self.owe(world, key)
        waves = taken(self.deliver(world))
        assert [number for number, keys in enumerate(waves) if key in keys] == [0 if key < "b" else len(waves) - 1]
        assert world.ledger.count_owed(self.NIGHTS.name).is_empty()

    def test_an_attempt_counts_when_the_last_wave_has_claimed(self, world: World) -> None:
        self.owe(world, "zz/2020/02/02/a")
        world.s3.delete("archive", ["in/zz/2020/02/02/a"])
        wave, attempts = self.deliver(world), list[int]()
        buffer(wave)
        while find_next_wave(wave) is not None:
            attempts.append(world.ledger.find_owed("in/zz/2020/02/02/a")["attempts"].item())
            wave = following(wave)
            buffer(wave)
        assert attempts == [attempts[0]] * 2
        assert world.ledger.find_owed("in/zz/2020/02/02/a")["attempts"].item() == attempts[0] + 1


class TestUndated:
    def test_a_run_that_is_killed_before_it_claims_still_tells_of_objects_without_a_date(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = pipeline(source={"window": "key_date"}, schedule={"cron": "@yearly"}, waves={"objects": 3})
        keys = [*(f"2026/03/0{day}/x" for day in range(1, 6)), "no-date"]
        for key in keys:
            world.put(f"s3://archive/in/{key}")
        run = world.run("scheduled__1", line, TestOwed.YEAR)
        with monkeypatch.context() as killed:
            killed.setattr(Ledger, "claim", raise_killed)
            with pytest.raises(Killed):
                buffer(run)
        assert buffer(run).undated == 1
        assert buffer(following(run)).undated == 0


class Killed(BaseException):
    """The process ends."""


def raise_killed(*_: Any, **__: Any) -> None:
    raise Killed
