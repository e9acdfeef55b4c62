"""What is checked before a job, and what is kept of its end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging.import_ import check_prefix, find_replaced, record
from airlock.ledger import Job, LedgerError
from airlock.records import BATCHES, JOBS
from airlock.stages.batches import Batch
from airlock.stages.jobs import StagedPrefixError
from tests.unit.airlock.world import frame

if TYPE_CHECKING:
    from airlock.run import Run
    from tests.unit.airlock.world import World

PREFIX = "s3://work/staging/b1/"
BATCH = Batch("b1", PREFIX, 2, 20)


def batch_of(world: World, *rows: dict[str, Any]) -> Run:
    run = world.run()
    run.ledger.open_run(run.key, "nightly", run.run_id, None)
    run.workspace.write("batches/b1", BATCHES, frame([{"batch_id": "b1"} | row for row in rows], BATCHES))
    return run


class TestCheckPrefix:
    def run(self, world: World) -> Run:
        unsent = {"staged_key": "staging/b1/000002.dcm", "reason": "object_changed"}
        run = batch_of(world, {"staged_key": "staging/b1/000000.dcm"}, {"staged_key": "staging/b1/000001.dcm"}, unsent)
        world.put(f"{PREFIX}000000.dcm")
        world.put(f"{PREFIX}000001.dcm")
        return run

    def test_exactly_the_batchs_files_pass(self, world: World) -> None:
        run = self.run(world)
        world.put("s3://work/staging/b12/other")
        check_prefix(run, BATCH)

    @pytest.mark.parametrize("more", ["000003.dcm", "000002.dcm", "deep/er", "folder/"])
    def test_one_more_is_refused(self, world: World, more: str) -> None:
        run = self.run(world)
        world.put(PREFIX + more, b"")
        with pytest.raises(
            StagedPrefixError,
            match=r"batch b1: of its 2 objects 0 are missing and 0 were replaced, and 1 others .*Clear stage",
        ):
            check_prefix(run, BATCH)

    def test_one_less_is_refused(self, world: World) -> None:
        run = self.run(world)
        world.s3.delete("work", ["staging/b1/000001.dcm"])
        with pytest.raises(StagedPrefixError, match="of its 2 objects 1 are missing and 0 were replaced, and 0 others"):
            check_prefix(run, BATCH)

    def test_an_object_imported_in_place_is_the_one_that_parse_read(self, world: World) -> None:
        etag = world.put("s3://archive/in/x/a", b"as it was")
        row = {"key": "in/x/a", "staged_key": "in/x/a", "etag": etag}
        run, batch = batch_of(world, row), Batch("b1", "s3://archive/in/x/", 1, 9)
        check_prefix(run, batch)
        world.put("s3://archive/in/x/a", b"as it is now")
        with pytest.raises(StagedPrefixError, match="of its 1 objects 0 are missing and 1 were replaced, and 0 others"):
            check_prefix(run, batch)

    def test_no_key_is_in_the_error(self, world: World) -> None:
        run = self.run(world)
        world.put(f"{PREFIX}MUELLER.dcm")
        with pytest.raises(StagedPrefixError) as info:
            check_prefix(run, BATCH)
        assert "MUELLER" not in str(info.value)


class TestRecord:
    JOB = Job("b1", 1, "", "token", "job-1", input_uri=PREFIX)
    OUTPUT = "s3://work/output/x-DicomImport-job-1/"

    def recorded(self, world: World, **properties: Any) -> tuple[Run, dict[str, Any]]:
        run = batch_of(world)
        job = Job(**(vars(self.JOB) | {"run_key": run.key}))
        run.ledger.record_job(job)
        return run, record(run, job, {"jobId": "job-1", "jobStatus": "COMPLETED"} | properties, self.OUTPUT)

    def test_the_end_is_in_the_ledger_and_in_the_workspace(self, world: World) -> None:
        begun, ended = datetime(2026, 11, 24, 2, tzinfo=UTC), datetime(2026, 11, 24, 3, tzinfo=UTC)
        run, xcom = self.recorded(world, submittedAt=begun, endedAt=ended)
        assert xcom == {"batch_id": "b1", "generation": 1, "job_id": "job-1", "status": "COMPLETED"}
        job = run.ledger.job("b1")
        assert job is not None
        assert (job.status, job.output_uri, job.input_uri) == ("COMPLETED", self.OUTPUT, PREFIX)
        assert (job.submitted_at, job.ended_at) == (begun, ended)
        (row,) = run.workspace.read("jobs/b1", JOBS).rows(named=True)
        assert row == xcom | {"message": "", "input_uri": PREFIX, "output_uri": self.OUTPUT}

    def test_a_failed_jobs_message_is_kept_and_does_not_go_to_xcom(self, world: World) -> None:
        run, xcom = self.recorded(world, jobStatus="FAILED", message="no access to MUELLER")
        assert run.workspace.read("jobs/b1", JOBS).select("status", "message").row(0) == (
            "FAILED",
            "no access to MUELLER",
        )
        assert "MUELLER" not in str(xcom)

    def test_recording_it_again_changes_nothing(self, world: World) -> None:
        run, xcom = self.recorded(world)
        job = run.ledger.job("b1")
        assert job is not None
        assert record(run, job, {"jobId": "job-1", "jobStatus": "COMPLETED"}, self.OUTPUT) == xcom
        assert len(run.ledger.jobs_of(run.key)) == 1

    def test_another_job_for_the_same_generation_is_refused_before_it_is_kept(self, world: World) -> None:
        run, _ = self.recorded(world)
        job = run.ledger.job("b1")
        assert job is not None
        with pytest.raises(LedgerError, match="has the job 'job-1', not 'job-2'"):
            record(run, job, {"jobId": "job-2", "jobStatus": "COMPLETED"}, self.OUTPUT)
        assert run.workspace.read("jobs/b1", JOBS)["job_id"].to_list() == ["job-1"]
        assert isinstance(run.workspace.read("jobs/b1", JOBS), pl.DataFrame)


class TestInPlace:
    """The objects of a prefix are listed again when the job has ended: they must still be those that parse read."""

    FOLDER = "s3://archive/in/x/"

    def begun(self, world: World) -> tuple[Run, Job]:
        etags = {name: world.put(f"{self.FOLDER}{name}", name.encode()) for name in ("a", "b", "unsent")}
        rows = [{"key": f"in/x/{name}", "staged_key": f"in/x/{name}", "etag": etag} for name, etag in etags.items()]
        rows[-1]["reason"] = "object_changed"
        run = batch_of(world, *rows)
        job = Job("b1", 1, run.key, "token", "job-1", input_uri=self.FOLDER)
        run.ledger.record_job(job)
        return run, job

    def end(self, run: Run, job: Job) -> list[str]:
        record(run, job, {"jobId": job.job_id, "jobStatus": "COMPLETED"}, "s3://work/output/x/")
        return find_replaced(run, job).to_list()

    def test_objects_that_are_as_they_were_are_proven(self, world: World) -> None:
        run, job = self.begun(world)
        world.put(f"{self.FOLDER}unsent", b"no part of the job")
        assert self.end(run, job) == []

    def test_a_replaced_object_is_not_proven(self, world: World) -> None:
        run, job = self.begun(world)
        world.put(f"{self.FOLDER}a", b"of another patient")
        assert self.end(run, job) == ["in/x/a"]

    def test_a_deleted_object_is_not_proven(self, world: World) -> None:
        run, job = self.begun(world)
        world.s3.delete("archive", ["in/x/b"])
        assert self.end(run, job) == ["in/x/b"]

    def test_what_changes_after_the_job_was_recorded_changes_nothing(self, world: World) -> None:
        run, job = self.begun(world)
        assert self.end(run, job) == []
        world.put(f"{self.FOLDER}a", b"the next delivery")
        assert self.end(run, job) == []

    def test_another_job_of_the_batch_is_listed_for_itself(self, world: World) -> None:
        run, job = self.begun(world)
        assert self.end(run, job) == []
        world.put(f"{self.FOLDER}a", b"of another patient")
        again = Job("b1", 2, run.key, "token-2", "job-2", input_uri=self.FOLDER)
        run.ledger.record_job(again)
        assert self.end(run, again) == ["in/x/a"]
        assert find_replaced(run, job).to_list() == []

    def test_copies_are_not_listed_again(self, world: World) -> None:
        run = batch_of(world, {"staged_key": "staging/b1/0", "etag": "of the source"})
        job = Job("b1", 1, run.key, "token", "job-1", input_uri=PREFIX)
        run.ledger.record_job(job)
        assert self.end(run, job) == []
