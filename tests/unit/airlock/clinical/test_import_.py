"""Before an import: the prefix holds the batch and nothing else. After it: how the job ended is kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from airlock.clinical.import_ import check_prefix, record
from airlock.clinical.normalize import normalize
from airlock.ledger import Job
from airlock.records import JOBS
from airlock.stages.batches import Batch, find_batches
from airlock.stages.jobs import StagedPrefixError
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import observation, patient
from tests.unit.airlock.clinical.world import validated

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from tests.unit.airlock.world import World


def staged(world: World) -> tuple[Run[ClinicalPipeline], Batch]:
    run = validated(world, {"a.ndjson": [patient("p1"), patient("p2"), observation("o1", "p1")]})
    (batch,) = normalize(run, run.pipeline.healthlake)
    return run, batch


class TestThePrefix:
    def test_one_that_holds_its_batch_passes(self, world: World) -> None:
        check_prefix(*staged(world))

    @pytest.mark.parametrize(
        ("name", "body", "message"),
        [
            ("Patient.00000.ndjson", None, "1 are missing and 0 were replaced, and 0 others"),
            ("Patient.00000.ndjson", b"{}\n", "0 are missing and 1 were replaced, and 0 others"),
            ("MUELLER.ndjson", b"{}\n", "0 are missing and 0 were replaced, and 1 others"),
            ("folder/", b"", "0 are missing and 0 were replaced, and 1 others"),
        ],
    )
    def test_more_less_or_other_is_refused(self, world: World, name: str, body: bytes | None, message: str) -> None:
        run, batch = staged(world)
        if body is None:
            run.s3.delete("work", [key for key in _keys(run, batch) if key.endswith(name)])
        else:
            world.put(batch.input_uri + name, body)
        with pytest.raises(StagedPrefixError, match=f"batch {batch.batch_id}: of its 2 objects {message}") as caught:
            check_prefix(run, batch)
        assert str(caught.value).endswith("Clear normalize to stage the batch again.")
        assert "MUELLER" not in str(caught.value)
        normalize(run, run.pipeline.healthlake)
        check_prefix(*[run, *find_batches(run)])


def _keys(run: Run[Any], batch: Batch) -> list[str]:
    return [item.key for item in run.s3.list_objects(S3Uri.parse(batch.input_uri))]


PROPERTIES: dict[str, Any] = {
    "JobId": "job-1",
    "JobStatus": "COMPLETED_WITH_ERRORS",
    "SubmitTime": datetime(2026, 11, 24, 2, tzinfo=UTC),
    "EndTime": datetime(2026, 11, 24, 3, tzinfo=UTC),
    "JobProgressReport": {"TotalNumberOfScannedFiles": 2, "TotalNumberOfResourcesImported": 3},
}


class TestTheEnd:
    def test_it_is_kept_in_the_ledger_and_the_workspace(self, world: World) -> None:
        run, batch = staged(world)
        job = Job(batch.batch_id, 0, run.key, "token", "job-1", input_uri=batch.input_uri)
        world.ledger.record_job(job)
        record(run, job, PROPERTIES, "s3://work/output/job-1/")
        kept = world.ledger.job(batch.batch_id)
        assert kept is not None
        assert (kept.job_id, kept.status) == ("job-1", "COMPLETED_WITH_ERRORS")
        (row,) = run.workspace.read(f"jobs/{batch.batch_id}", JOBS).to_dicts()
        assert row == {
            "batch_id": batch.batch_id,
            "generation": 0,
            "job_id": "job-1",
            "status": "COMPLETED_WITH_ERRORS",
            "message": "",
            "input_uri": batch.input_uri,
            "output_uri": "s3://work/output/job-1/",
        }

    def test_what_goes_to_xcom_names_nothing_of_a_patient(self, world: World) -> None:
        run, batch = staged(world)
        job = Job(batch.batch_id, 0, run.key, "token", "job-1", input_uri=batch.input_uri)
        world.ledger.record_job(job)
        answer = record(run, job, PROPERTIES, "s3://work/output/job-1/")
        assert "p1" not in json.dumps(answer, default=str)
