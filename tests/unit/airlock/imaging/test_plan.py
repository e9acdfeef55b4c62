"""A plan says what a run would do, and leaves no trace but itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from airlock.imaging.plan import write_plan
from airlock.imaging.validate import validate
from airlock.ledger.instances import IMPORTS
from airlock.ledger.studies import SERIES, STUDIES
from airlock.records import HEADERS, VERDICTS
from airlock.stages.buffer import buffer
from airlock.stages.plan import read_plan
from airlock.stages.plan_table import format_plan
from tests.ledger_rows import count_arrivals, count_instances
from tests.unit.airlock.imaging.batches import stage_all
from tests.unit.airlock.world import STORE, dicom, frame, pipeline, unread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from airlock.pipelines import ImagingPipeline
    from airlock.run import Run
    from airlock.stages.plan import Plan
    from tests.unit.airlock.world import World

NUMBER = "NumberOfStudyRelatedInstances"
BY_SITE = {"site_pattern": "^in/(?P<site>[^/]+)/"}
NOBODY: dict[str, int] = {}


def deliver(world: World, *files: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Put the files' objects and return their headers' values by key."""
    for each in files:
        world.put(f"s3://archive/{each['key']}", f"content of {each['key']}".encode())
    return {each["key"]: each for each in files}


def headers(run: Run, values: dict[str, dict[str, Any]], shards: Sequence[str]) -> None:
    """Write what parse would find in the objects."""
    from airlock.records import ARRIVALS

    for shard in shards:
        arrivals = run.workspace.read(f"arrivals/{shard}", ARRIVALS)
        rows = [values[row["key"]] | {"arrival_id": row["arrival_id"]} for row in arrivals.iter_rows(named=True)]
        run.workspace.write(f"headers/{shard}", HEADERS, frame(rows, HEADERS))


def made(world: World, *files: dict[str, Any], run_id: str = "one", line: ImagingPipeline | None = None) -> Plan:
    """Deliver files, and take a run through as a plan."""
    run = world.run(run_id, line).as_plan()
    values = deliver(world, *files)
    headers(run, values, buffer(run).shards)
    validate(run)
    return write_plan(run)[0]


def taken(world: World, *files: dict[str, Any], run_id: str) -> Run:
    """Deliver files, and take a run through stage."""
    run = world.run(run_id)
    headers(run, deliver(world, *files), buffer(run).shards)
    validate(run)
    stage_all(run)
    return run


def found(plan: Plan) -> dict[tuple[str, str | None], int]:
    return {(str(item.verdict), item.reason): item.arrivals for item in plan.findings}


class TestWhatItSays:
    def test_counts_of_the_delivery_and_of_the_work(self, world: World) -> None:
        plan = made(
            world,
            dicom("a", SeriesInstanceUID="1.1.1"),
            dicom("bb", SeriesInstanceUID="1.1.2"),
            dicom("ccc", SeriesInstanceUID="1.2.1", StudyInstanceUID="1.2"),
            line=pipeline(limits={"files_per_job": 2}),
        )
        assert (plan.listed, plan.arrivals, plan.studies, plan.series) == (3, 3, 2, 3)
        assert plan.bytes == sum(len(f"content of in/{name}") for name in ("a", "bb", "ccc"))
        assert (plan.batches.jobs, plan.batches.files, plan.batches.most_files) == (2, 3, 2)
        assert found(plan) == {("accept", None): 3}

    def test_rejects_and_duplicates_come_with_their_sentence(self, world: World) -> None:
        copy = {"SOPInstanceUID": "1.1.1.9"}
        plan = made(world, dicom("a", **copy), dicom("bb", **copy), unread("notes.txt", "sidecar"))
        assert found(plan) == {("quarantine", "duplicate_other_content"): 2, ("ignore", "sidecar"): 1}
        assert all(item.sentence for item in plan.findings)
        assert (plan.studies, plan.batches.jobs) == (0, 0)

    def test_nothing_to_do_is_said(self, world: World) -> None:
        plan = made(world)
        assert (plan.listed, plan.arrivals, plan.batches.jobs, plan.hours.total) == (0, 0, 0, 0)
        assert f"{'arrivals':42}{0:>14}" in format_plan(plan)

    def test_what_others_have_is_counted_and_not_planned(self, world: World) -> None:
        taken(world, dicom("a"), run_id="real")
        plan = made(world, dicom("bb"))
        assert (plan.claimed_elsewhere, plan.settled, plan.arrivals, plan.listed) == (1, 0, 1, 2)

    def test_an_instance_that_another_arrival_owns_is_no_work(self, world: World) -> None:
        taken(world, dicom("a", SOPInstanceUID="1.5"), run_id="real")
        plan = made(world, dicom("bb", SOPInstanceUID="1.5"))
        assert found(plan) == {("quarantine", "duplicate_other_content"): 1}

    def test_a_delivery_that_several_runs_take_is_said(self, world: World) -> None:
        files = [dicom(name, SeriesInstanceUID=f"1.1.{name[0]}") for name in ("1/a", "2/b")]
        plan = made(world, *files, line=pipeline(waves={"objects": 1}))
        assert (plan.waves, plan.batches.too_many) == (2, False)
        assert f"  {'waves, one run each':42}{2:>14}" in format_plan(plan)

    def test_a_clean_prefix_needs_no_copy(self, world: World) -> None:
        files = [dicom("study/1"), dicom("study/22")]
        in_place = made(world, *files, line=pipeline(staging={"mode": "in_place"}))
        copied = made(world, *files, run_id="two")
        assert (in_place.batches.in_place, copied.batches.in_place) == (1, 0)
        copies = [
            next(item.number for item in plan.cost.requests if item.what.startswith("S3 COPY"))
            for plan in (in_place, copied)
        ]
        assert copies == [0, 2]

    def test_declared_numbers_are_compared_by_site(self, world: World) -> None:
        numbers = {"one": ("2", "2"), "two": ("3", None), "three": ("1", "1")}
        files = [
            dicom(
                f"east/{study}{n}", StudyInstanceUID=f"1.{study}", SeriesInstanceUID=f"1.{study}.1", **{NUMBER: number}
            )
            for study, of_files in numbers.items()
            for n, number in enumerate(of_files)
        ]
        files.append(dicom("none"))
        plan = made(world, *files, line=pipeline(source=BY_SITE))
        (east,) = plan.declared
        assert (east.site, east.declared_by, east.studies, east.declare) == ("east", "header", 3, 3)
        assert (east.equal, east.fewer, east.more) == (1, 1, 1)
        assert "declared by header, site east" in format_plan(plan)
        assert "of 3 studies: equal 1, fewer 1, more 1" in format_plan(plan)
        assert plan.questions == ()

    def test_no_plan_names_a_folder_that_no_setting_calls_a_site(self, world: World) -> None:
        files = [dicom(f"CANARY/{n}", **{NUMBER: "300"}) for n in (1, 2)]
        plan = made(world, *files, line=pipeline(audit={"declared_count": {"header": "hold"}}))
        (source,) = plan.declared
        assert (source.site, source.studies, source.fewer) == ("", 1, 1)
        assert "only 0 of 1 studies have as many instances as their headers declare" in plan.questions[0]
        assert "CANARY" not in plan.model_dump_json() + format_plan(plan)

    def test_a_plan_asks_why_headers_are_trusted_that_are_often_wrong(self, world: World) -> None:
        files = [dicom("east/a", **{NUMBER: "300"})]
        policy = {"header": "hold"}
        plan = made(world, *files, line=pipeline(source=BY_SITE, audit={"declared_count": policy}))
        (question,) = plan.questions
        assert "only 0 of 1 studies of site 'east' have as many instances as their headers declare" in question
        assert question in format_plan(plan)
        told = policy | {"why": "the PACS counts again before it exports"}
        assert made(world, *files, run_id="two", line=pipeline(audit={"declared_count": told})).questions == ()

    def test_what_the_store_has_counts_for_a_plan(self, world: World) -> None:
        run = taken(world, dicom("east/a"), run_id="real")
        rows = run.workspace.read("verdicts", VERDICTS).to_dicts()
        facts = frame([row | {"state": "imported", "image_set_id": "i", "batch_id": "b"} for row in rows], IMPORTS)
        world.ledger.record_imported(STORE, run.key, facts, STUDIES.to_frame(), SERIES.to_frame())
        (east,) = made(world, dicom("east/b", **{NUMBER: "2"})).declared
        assert (east.equal, east.fewer) == (1, 0)

    def test_no_key_and_no_identifier_is_in_the_table(self, world: World) -> None:
        text = format_plan(made(world, dicom("CANARY-KEY", PatientID="CANARY-ID"), unread("CANARY.txt", "sidecar")))
        assert "CANARY" not in text
        assert "1.1.1" not in text


class TestItsFigures:
    @pytest.mark.parametrize(
        ("settings", "seconds", "limit"),
        [
            ({"concurrent_jobs": 1}, 30, "concurrent jobs"),
            ({"concurrent_jobs": 100}, 12, "job starts"),
            ({"concurrent_jobs": 100, "starts_per_second": 1000}, 10.002, "job starts"),
        ],
    )
    def test_hours_follow_the_tightest_limit(
        self, world: World, settings: dict[str, Any], seconds: float, limit: str
    ) -> None:
        rates = {"job_seconds": 10, "job_files_per_second": 1e9, "job_mib_per_second": 1e9, "copy_seconds": 64}
        files = [dicom("x" * number, SeriesInstanceUID=f"1.1.{number}") for number in (1, 2, 3)]
        plan = made(world, *files, line=pipeline(limits={"files_per_job": 1}, plan=rates | settings))
        assert plan.hours.jobs == pytest.approx(seconds / 3600)
        assert plan.hours.copies == pytest.approx(3 / 3600)  # 3 copies of 64 s, 64 at a time
        assert plan.hours.total == pytest.approx(plan.hours.jobs + plan.hours.copies)
        assert plan.hours.limited_by == limit

    def test_one_large_job_limits_the_whole(self, world: World) -> None:
        files = [dicom("a", SeriesInstanceUID="1.1.1"), *(dicom("b" * n, SeriesInstanceUID="1.1.2") for n in (2, 3, 4))]
        rates = {"job_seconds": 0, "job_files_per_second": 0.1, "starts_per_second": 1000}
        plan = made(world, *files, line=pipeline(limits={"files_per_job": 3}, plan=rates))
        assert plan.hours.jobs * 3600 == pytest.approx(30)
        assert plan.hours.limited_by == "the longest job"

    def test_nights_are_counted_by_the_window(self, world: World) -> None:
        night = {"import_window": {"start": "23:00", "end": "01:00"}}
        rates = {"job_seconds": 3 * 3600}
        assert made(world, dicom("a"), line=pipeline(schedule=night, plan=rates)).hours.nights == 2
        assert made(world, dicom("a"), run_id="two").hours.nights is None

    def test_cost_follows_the_price_table(self, world: World) -> None:
        gib = 1024**3
        prices = {"frequent_gib_month": 1024, "archive_gib_month": 512, "import_gib": gib, "get_per_1000": 1000}
        prices |= {"put_per_1000": 0, "api_per_1000": 0, "currency": "EUR", "region": "eu-central-1"}
        plan = made(world, dicom("a"), line=pipeline(plan={"prices": prices}))
        assert plan.cost.storage.billed_bytes == 5 * 1024**2
        assert (plan.cost.storage.frequent, plan.cost.storage.archive) == (5, 2.5)
        assert plan.cost.imports == plan.bytes
        assert plan.cost.all_requests == 1 + 3  # the service reads the file, audit three objects
        assert "Cost in EUR, prices of eu-central-1 as of 2026-10-07" in format_plan(plan)
        assert any("Check AWS's price page" in text for text in plan.assumptions)


class TestItsProjection:
    def test_it_is_to_an_archive_of_such_objects_with_full_jobs(self, world: World) -> None:
        settings = {"job_seconds": 10, "job_files_per_second": 100, "job_mib_per_second": 1e9}
        line = pipeline(limits={"files_per_job": 500}, plan=settings | {"projection": {"objects": 5_000_000}})
        found = made(world, dicom("a"), dicom("bb"), line=line).projection
        assert found is not None
        assert (found.objects, found.jobs) == (5_000_000, 10_000)
        rates = {each.limit: each.objects_per_second for each in found.limits}
        assert rates["concurrent jobs"] == pytest.approx(20 * 500 / 15)
        assert rates["S3 COPY"] == 3_500

    def test_large_files_fill_a_job_by_their_bytes(self, world: World) -> None:
        plan = made(world, dicom("a"), line=pipeline(limits={"bytes_per_job": 3 * len("content of in/a")}))
        assert plan.projection is not None
        assert plan.projection.jobs == pytest.approx(100_000_000 / 3, abs=1)
        assert plan.projection.waves == pytest.approx(100_000_000 / (3 * 250), abs=1)

    def test_the_table_says_what_limits_it(self, world: World) -> None:
        text = format_plan(made(world, dicom("a"), line=pipeline(schedule={"max_active_runs": 1})))
        assert "Projected to an archive of 100,000,000 such objects" in text
        assert "limited by active runs" in text

    def test_without_jobs_or_with_null_there_is_none(self, world: World) -> None:
        assert made(world).projection is None
        line = pipeline(plan={"projection": {"objects": None}})
        plan = made(world, dicom("a"), run_id="two", line=line)
        assert plan.projection is None
        assert "Projected" not in format_plan(plan)


class TestItLeavesNoTrace:
    def test_nothing_is_claimed_staged_or_written_to_the_ledger(self, world: World, tmp_path: Path) -> None:
        before = (tmp_path / "ledger.db").read_bytes()
        made(world, dicom("a"), dicom("bb"))
        assert (tmp_path / "ledger.db").read_bytes() == before
        assert count_arrivals(world.ledger, "nightly") == NOBODY
        assert count_instances(world.ledger, STORE) == NOBODY
        run = world.run()
        assert world.keys(run.pipeline.staging.uri) == []
        assert all(name.startswith(f"nightly/{run.key}/plan/") for name in world.keys(run.pipeline.workspace))

    def test_the_same_run_in_earnest_takes_everything(self, world: World) -> None:
        """Airflow's backfill may reprocess a planned interval: it then has the plan's run id."""
        files = [dicom("a"), dicom("bb")]
        made(world, *files, run_id="one")
        real = taken(world, *files, run_id="one")
        assert world.ledger.held_total("nightly", real.key)[0] == 2
        assert len(world.keys(real.pipeline.staging.uri)) == 2

    def test_a_plan_of_a_run_that_was_done_finds_nothing_left(self, world: World) -> None:
        taken(world, dicom("a"), run_id="one")
        plan = made(world, run_id="one")
        assert (plan.arrivals, plan.claimed_elsewhere) == (0, 1)

    def test_a_plan_counts_what_the_run_of_its_own_name_brought_as_anothers(self, world: World) -> None:
        taken(world, dicom("a", SOPInstanceUID="1.5"), run_id="one")
        plan = made(world, dicom("bb", SOPInstanceUID="1.5"), run_id="one")
        assert found(plan) == {("quarantine", "duplicate_other_content"): 1}

    def test_made_again_it_sees_what_has_come(self, world: World) -> None:
        assert made(world, dicom("a")).arrivals == 1
        assert made(world, dicom("a"), dicom("bb")).arrivals == 2


class TestReading:
    def test_a_plan_is_read_as_it_was_written(self, world: World) -> None:
        plan = made(world, dicom("a"), run_id="manual__2026-11-24T00:00:00+00:00")
        assert read_plan(world.s3, pipeline(), "manual__2026-11-24T00:00:00+00:00") == plan
        assert plan.made_at <= datetime.now(UTC)
        assert json.loads(plan.to_json())["schema"] == "airlock.plan/1"
