"""Imports outlive the process, also one that is killed in the middle of a file."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.localaws.endpoint import Endpoint, until
from tests.contract.localaws.healthlake import HealthLakeEndpoint, local_healthlake, patients
from tests.servers.moto import moto_server
from tests.unit.localaws.test_restart import end_the_wait, kill, process

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
DATASTORE = "e" * 32


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


@contextmanager
def emulator(
    state: Path, s3_endpoint: str, *flags: str
) -> Iterator[tuple[HealthLakeEndpoint, subprocess.Popen[bytes]]]:
    """Run the command line with a HealthLake data store."""
    seed = ("--healthlake-datastore", f"{DATASTORE}:restart", "--submitted-seconds", "0")
    with process(state, s3_endpoint, *seed, *flags) as (places, running):
        yield healthlake_beside(places), running


def healthlake_beside(places: Endpoint) -> HealthLakeEndpoint:
    return HealthLakeEndpoint(local_healthlake(str(places.url)), places, DATASTORE, places.role_arn, "alias/test")


def scanned(job: dict[str, Any]) -> int:
    return int(job.get("JobProgressReport", {}).get("TotalNumberOfResourcesScanned", 0))


def test_a_killed_import_goes_on_behind_its_last_batch_and_stores_nothing_twice(
    tmp_path: Path, s3_endpoint: str
) -> None:
    count = 5000
    files = {"a.ndjson": patients(10), "b.ndjson": patients(count).replace(b'"p', b'"q')}
    with emulator(tmp_path / "state.db", s3_endpoint) as (healthlake, running):
        job_id = healthlake.start(healthlake.places.upload(files))
        seen = until(lambda: scanned(healthlake.get_job(job_id)), lambda number: number > 10)
        kill(running)
    assert seen < count
    with emulator(tmp_path / "state.db", s3_endpoint) as (healthlake, _):
        job = healthlake.read_output(healthlake.ended(job_id))
    lines = job.files["SUCCESS/b.ndjson"]
    assert (job.status, job.numbers()) == ("COMPLETED", (count + 10, count + 10, 0, 0))
    assert [line["lineId"] for line in lines] == list(range(1, count + 1))
    assert {line["UpdateResourceResponse"]["jsonBlob"]["meta"]["versionId"] for line in lines} == {"1"}


def test_an_import_killed_before_its_output_writes_it_and_stores_nothing_again(
    tmp_path: Path, s3_endpoint: str
) -> None:
    with emulator(tmp_path / "state.db", s3_endpoint, "--seconds-per-file", "20") as (healthlake, running):
        job_id = healthlake.start(healthlake.places.upload({"a.ndjson": patients(3)}))
        until(lambda: scanned(healthlake.get_job(job_id)), lambda number: number == 3)
        kill(running)
    end_the_wait(tmp_path / "state.db")
    with emulator(tmp_path / "state.db", s3_endpoint) as (healthlake, _):
        job = healthlake.read_output(healthlake.ended(job_id))
    assert job.numbers() == (3, 3, 0, 0)
    assert {line["UpdateResourceResponse"]["statusCode"] for line in job.files["SUCCESS/a.ndjson"]} == {201}


def test_the_queue_outlives_the_process(tmp_path: Path, s3_endpoint: str) -> None:
    with emulator(tmp_path / "state.db", s3_endpoint) as (healthlake, running):
        healthlake.places.faults({"kind": "stuck_in_progress", "job_name": "stuck"})
        uri = healthlake.places.upload({"a.ndjson": patients(1)})
        stuck = healthlake.start(uri, JobName="stuck", ClientToken="stuck")
        until(lambda: healthlake.get_job(stuck), lambda job: job["JobStatus"] == "IN_PROGRESS")
        waiting = healthlake.start(uri)
        until(lambda: healthlake.get_job(waiting), lambda job: job["JobStatus"] == "QUEUED")
        kill(running)
    with emulator(tmp_path / "state.db", s3_endpoint) as (healthlake, _):
        assert healthlake.start(uri, JobName="stuck", ClientToken="stuck") == stuck
        assert [healthlake.get_job(job_id)["JobStatus"] for job_id in (stuck, waiting)] == ["IN_PROGRESS", "QUEUED"]
        healthlake.places.faults()
        assert healthlake.ended(waiting)["JobStatus"] == "COMPLETED"
        assert healthlake.get_job(stuck)["JobStatus"] == "COMPLETED"
