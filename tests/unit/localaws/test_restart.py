"""The state outlives the process, also one that is killed in the middle of a job."""

from __future__ import annotations

import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.localaws.dicom_files import part10, series
from tests.contract.localaws.endpoint import DATASTORE, ROLE, Endpoint, local_imaging, local_s3, until
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_localaws/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def process(state: Path, s3_endpoint: str, *flags: str) -> Iterator[tuple[Endpoint, subprocess.Popen[bytes]]]:
    """Run the command line; killed at the end if it still runs."""
    port = free_port()
    command = [sys.executable, "-m", "localaws", "--port", str(port), "--state", str(state)]
    command += ["--s3-endpoint", s3_endpoint, "--datastore", f"{DATASTORE}:restart", *flags]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        try:
            until(lambda: healthy(url), bool)
            places = ("s3://contract-input/", "s3://contract-output/")
            yield Endpoint(local_imaging(url), local_s3(s3_endpoint), DATASTORE, ROLE, *places, url), running
        finally:
            running.kill()


def kill(running: subprocess.Popen[bytes]) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait(10)


def image_set_versions(endpoint: Endpoint) -> list[int]:
    answer = endpoint.imaging.search_image_sets(datastoreId=DATASTORE)
    return [item["version"] for item in answer["imageSetsMetadataSummaries"]]


def test_a_killed_process_goes_on_with_its_jobs(tmp_path: Path, s3_endpoint: str) -> None:
    with process(tmp_path / "state.db", s3_endpoint, "--submitted-seconds", "0.3") as (endpoint, running):
        endpoint.faults({"kind": "stuck_in_progress", "job_name": "stuck"})
        uri = endpoint.upload({"a.dcm": part10()})
        stuck = endpoint.start(uri, jobName="stuck", clientToken="stuck")
        until(lambda: endpoint.get_job(stuck), lambda job: job["jobStatus"] == "IN_PROGRESS")
        waiting = endpoint.start(endpoint.upload({"b.dcm": part10()}), jobName="waiting")
        kill(running)
    with process(tmp_path / "state.db", s3_endpoint) as (endpoint, _):
        assert endpoint.ended(waiting)["jobStatus"] == "COMPLETED"
        assert endpoint.get_job(stuck)["jobStatus"] == "IN_PROGRESS"
        assert endpoint.start(uri, jobName="stuck", clientToken="stuck") == stuck
        endpoint.faults()
        assert endpoint.output(endpoint.ended(stuck)).summary["numberOfImportedFiles"] == 1
        assert endpoint.calls()["jobs_started"] == 2


def test_a_job_killed_between_its_image_sets_and_its_output_imports_nothing_twice(
    tmp_path: Path, s3_endpoint: str
) -> None:
    files = {f"{number}.dcm": body for number, body in enumerate(series(3))}
    with process(tmp_path / "state.db", s3_endpoint, "--seconds-per-file", "20") as (endpoint, running):
        job_id = endpoint.start(endpoint.upload(files))
        until(lambda: image_set_versions(endpoint), bool)
        assert endpoint.get_job(job_id)["jobStatus"] == "IN_PROGRESS"
        kill(running)
    end_the_wait(tmp_path / "state.db")
    with process(tmp_path / "state.db", s3_endpoint) as (endpoint, _):
        job = endpoint.output(endpoint.ended(job_id))
        assert len(job.success) == 3
        assert image_set_versions(endpoint) == [1]


def end_the_wait(state: Path) -> None:
    """Make every step due now, while the emulator is down."""
    with closing(sqlite3.connect(state)) as connection, connection:
        connection.execute("UPDATE todo SET due_at = 0")


@pytest.mark.parametrize("seconds", [0.05, 0.25])
def test_a_job_killed_at_any_moment_accounts_for_each_file_once(
    tmp_path: Path, s3_endpoint: str, seconds: float
) -> None:
    bodies = [body for _ in range(10) for body in series(8)]
    files = {f"{number}.dcm": body for number, body in enumerate(bodies)}
    with process(tmp_path / "state.db", s3_endpoint, "--submitted-seconds", "0") as (endpoint, running):
        job_id = endpoint.start(endpoint.upload(files))
        until(lambda: None, after(seconds))
        kill(running)
    with process(tmp_path / "state.db", s3_endpoint) as (endpoint, _):
        job = endpoint.output(endpoint.ended(job_id))
        assert sorted(line["inputFile"].rpartition("/")[2] for line in job.success) == sorted(files)
        assert image_set_versions(endpoint) == [1] * 10


def after(seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    return lambda _: time.monotonic() >= deadline


def test_data_stores_tags_and_frames_survive_a_clean_stop(tmp_path: Path, s3_endpoint: str) -> None:
    with process(tmp_path / "state.db", s3_endpoint) as (endpoint, running):
        (image_set_id,) = endpoint.import_files({"a.dcm": part10()}).image_set_ids
        arn = endpoint.imaging.get_datastore(datastoreId=DATASTORE)["datastoreProperties"]["datastoreArn"]
        endpoint.imaging.tag_resource(resourceArn=arn, tags={"kept": "yes"})
        running.terminate()
        assert running.wait(20) in {0, -signal.SIGTERM}
    with process(tmp_path / "state.db", s3_endpoint) as (endpoint, _):
        assert endpoint.imaging.list_tags_for_resource(resourceArn=arn)["tags"] == {"kept": "yes"}
        assert endpoint.imaging.get_image_set(datastoreId=DATASTORE, imageSetId=image_set_id)["versionId"] == "1"
