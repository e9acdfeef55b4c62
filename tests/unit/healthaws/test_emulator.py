"""Hook, operator and trigger over HTTP against the emulator, which reads and writes a real S3 server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from airflow.sdk.exceptions import AirflowFailException
from botocore.exceptions import ClientError, ConnectionClosedError
from pydicom.data import get_testdata_file

from healthaws.exceptions import JobFailedError
from healthaws.operators.healthimaging_import_jobs import HealthImagingStartDicomImportJobOperator
from localaws.server import serve
from localaws.settings import Seed
from tests.servers.moto import moto_server
from tests.unit.healthaws.emulator import ONE_TRY, Emulator, run
from tests.unit.healthaws.service import DATASTORE, ROLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

BUCKET = "imaging"


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def emulator(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator whose S3 holds one CT image to import, and which the client finds by its environment."""
    s3 = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    s3.create_bucket(Bucket=BUCKET)
    s3.upload_file(get_testdata_file("CT_small.dcm"), BUCKET, "in/ct.dcm")
    with serve(s3_endpoint=s3_endpoint, datastore=(Seed(DATASTORE, "test"),)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_MEDICAL_IMAGING", url)
        yield Emulator(url, s3)


def operator(**more: Any) -> HealthImagingStartDicomImportJobOperator:
    given: dict[str, Any] = {
        "task_id": "import",
        "datastore_id": DATASTORE,
        "data_access_role_arn": ROLE,
        "input_s3_uri": f"s3://{BUCKET}/in/",
        "output_s3_uri": f"s3://{BUCKET}/out/",
        "waiter_delay": 1,
        "backoff_initial_delay": 0.1,
        "aws_conn_id": None,
        "botocore_config": ONE_TRY,
    }
    return HealthImagingStartDicomImportJobOperator(**given | more)


def test_deferrable_import_ends_with_a_manifest_in_the_output_folder(emulator: Emulator, context: Context) -> None:
    task = operator(deferrable=True)
    job_id = run(task, context)
    folder = urlsplit(task.hook.output_folder(task.hook.get_dicom_import_job(DATASTORE, job_id)))
    manifest = emulator.s3.get_object(Bucket=folder.netloc, Key=f"{folder.path[1:]}job-output-manifest.json")
    assert json.load(manifest["Body"])["jobSummary"]["numberOfImportedFiles"] == 1


@pytest.mark.parametrize("deferrable", [True, False])
@pytest.mark.parametrize(("answer", "error"), [("drop", ConnectionClosedError), ("500", ClientError)])
def test_lost_answer_to_a_start_makes_no_second_job(
    deferrable: bool, answer: str, error: type[Exception], emulator: Emulator, context: Context
) -> None:
    emulator.fault("lost_response", operation="StartDICOMImportJob", times=1, answer=answer)
    task = operator(deferrable=deferrable)
    with pytest.raises(error):
        run(task, context)
    assert emulator.jobs_started() == 1
    job_id = run(operator(deferrable=deferrable), context)
    assert task.hook.get_dicom_import_job_status(DATASTORE, job_id) == "COMPLETED"
    assert emulator.jobs_started() == 1


@pytest.mark.parametrize("kind", ["throttle_storm", "quota_storm"])
@pytest.mark.parametrize("deferrable", [True, False])
def test_storms_delay_the_import_only(kind: str, deferrable: bool, emulator: Emulator, context: Context) -> None:
    emulator.fault(kind, operation="*", times=4)
    task = operator(deferrable=deferrable)
    job_id = run(task, context)
    assert task.hook.get_dicom_import_job_status(DATASTORE, job_id) == "COMPLETED"
    assert emulator.jobs_started() == 1


def test_failed_job_is_followed_by_the_next_generation(emulator: Emulator, context: Context) -> None:
    emulator.fault("job_failed_without_output", times=1)
    with pytest.raises(JobFailedError, match="FAILED"):
        run(operator(deferrable=True), context)
    task = operator(deferrable=True)
    job_id = run(task, context)
    assert task.hook.get_dicom_import_job_status(DATASTORE, job_id) == "COMPLETED"
    assert emulator.jobs_started() == 2


def test_clearing_takes_the_finished_job(emulator: Emulator, context: Context) -> None:
    assert run(operator(deferrable=True), context) == run(operator(deferrable=True), context)
    assert emulator.jobs_started() == 1


def test_unknown_data_store_fails_at_once(emulator: Emulator, context: Context) -> None:
    with pytest.raises(AirflowFailException, match="ResourceNotFoundException"):
        run(operator(datastore_id="0" * 32), context)


def test_a_start_whose_answer_was_lost_is_taken_up_with_other_parameters(emulator: Emulator, context: Context) -> None:
    emulator.fault("lost_response", operation="StartDICOMImportJob", times=1, answer="drop")
    with pytest.raises(ConnectionClosedError):
        run(operator(deferrable=True), context)
    corrected = operator(
        deferrable=True, data_access_role_arn=f"{ROLE}-corrected", output_s3_uri=f"s3://{BUCKET}/elsewhere/"
    )
    job_id = run(corrected, context)
    assert emulator.jobs_started() == 1
    assert corrected.hook.get_dicom_import_job(DATASTORE, job_id)["dataAccessRoleArn"] == ROLE
