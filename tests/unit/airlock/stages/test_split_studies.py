"""Which waves a study waits for, and when it waits no longer for a wave that never begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ledger.words import VERDICTS
from airlock.run import run_key
from airlock.stages.buffer import buffer
from airlock.stages.split_studies import MOST_LOOKED_UP, find_sharing, give_up_taken, list_split
from tests.unit.airlock.stages.test_waves import delivered, following
from tests.unit.airlock.world import STORE, pipeline, read_arrivals

if TYPE_CHECKING:
    from airlock.run import Run
    from tests.unit.airlock.world import World

KEYS = ("a/x/1", "a/x/2", "a/y/1", "a/y/2", "b/1")


@pytest.fixture
def lead(world: World) -> Run:
    """The first wave of two, which has claimed."""
    run = delivered(world, *KEYS)
    buffer(run)
    return run


def validate(run: Run) -> None:
    """Record verdicts on all that a run holds; each folder has a study."""
    files = read_arrivals(run).with_columns(
        verdict=pl.lit("accept"),
        sop_instance_uid=pl.lit(None),
        series_instance_uid=pl.lit(None),
        study_instance_uid=pl.col("key").str.extract("in/([a-z]+)/"),
    )
    sharing = find_sharing(run)
    named = files.select("key", StudyInstanceUID="study_instance_uid")
    with run.ledger.at_once("arrivals of nightly") as ledger:
        ledger.await_waves(STORE, "nightly", run.key, sharing, list_split(run, [named], sharing))
        ledger.record_verdicts(STORE, "nightly", run.key, files.select(VERDICTS.names()))


def expected(run: Run) -> list[str]:
    return run.ledger.expected_waves("nightly")


class TestSharing:
    def test_a_run_knows_the_waves_that_have_objects_in_its_folders(self, lead: Run) -> None:
        second = f"wave_0002__{lead.run_id}"
        assert find_sharing(lead) == {"a": {second: run_key("nightly", second)}}
        assert find_sharing(following(lead)) == {"a": {lead.run_id: lead.key}}

    def test_a_delivery_that_one_run_takes_has_none(self, world: World) -> None:
        run = world.run("one", pipeline())
        buffer(run)
        assert find_sharing(run) == {}

    def test_of_the_files_only_those_below_a_shared_folder_may_be_in_another_wave(self, lead: Run) -> None:
        rows = [("in/a/x/1", "1"), ("in/a/x/2", "1"), ("in/b/1", "2"), ("in/c", "3"), ("in/a/3", None), ("in/a/4", "")]
        part = pl.DataFrame(rows, schema=["key", "StudyInstanceUID"], orient="row")
        assert [frame.rows() for frame in list_split(lead, [part], ["a"])] == [[("1", "a")]]
        assert [frame.rows() for frame in list_split(lead, [part], [""])] == [[("3", "")]]


class TestAWaveThatDoesNotBegin:
    @pytest.fixture
    def waiting(self, lead: Run) -> Run:
        validate(lead)
        assert expected(lead) == ["wave_0002__one"]
        return lead

    def other(self, world: World, name: str = "other") -> Run:
        run = world.run(name, pipeline())
        buffer(run)
        return run

    def test_it_is_awaited_while_its_objects_are_nobodys(self, world: World, waiting: Run) -> None:
        run = world.run("other", pipeline(), prefix="s3://archive/in/b/")
        buffer(run)
        validate(run)
        assert (give_up_taken(run), expected(run)) == (0, ["wave_0002__one"])

    def test_it_is_awaited_until_the_run_that_took_its_objects_has_read_them(self, world: World, waiting: Run) -> None:
        run = self.other(world)
        assert (give_up_taken(run), expected(run)) == (0, ["wave_0002__one"])
        validate(run)
        assert (give_up_taken(run), expected(run)) == (1, [])
        assert give_up_taken(run) == 0

    def test_a_wave_of_the_same_delivery_gives_none_up(self, waiting: Run) -> None:
        waiting.s3.delete("archive", [f"in/{key}" for key in KEYS])
        assert (give_up_taken(waiting), expected(waiting)) == (0, ["wave_0002__one"])

    def test_what_was_deleted_or_replaced_since_cannot_be_read_any_more(self, world: World, waiting: Run) -> None:
        world.s3.delete("archive", ["in/b/1", "in/a/y/1"])
        world.put("s3://archive/in/a/y/2", b"another content")
        assert give_up_taken(world.run("other", pipeline())) == 1

    def test_a_person_decides_if_very_many_were_deleted(
        self, world: World, waiting: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.s3.delete("archive", [f"in/{key}" for key in KEYS])
        monkeypatch.setattr("airlock.stages.split_studies.MOST_LOOKED_UP", 2)
        assert MOST_LOOKED_UP > 2
        assert give_up_taken(world.run("other", pipeline())) == 0

    def test_one_whose_frozen_listing_was_deleted_can_never_begin(self, world: World, waiting: Run) -> None:
        work = waiting.workspace.root
        world.s3.delete("work", [work.key + name for name in world.keys(str(work))])
        assert give_up_taken(world.run("other", pipeline())) == 1

    def test_one_that_has_claimed_is_awaited_although_it_has_not_read(self, world: World, waiting: Run) -> None:
        buffer(following(waiting))
        run: Any = self.other(world)
        assert give_up_taken(run) == 0
        assert run.ledger.studies_in_flight(STORE, pl.Series(["a"]), waiting.key) == [("a", following(waiting).key)]
