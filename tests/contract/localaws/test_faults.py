"""Every fault switch, as a client meets it; AWS has none, so there this file is skipped."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.contract.localaws.dicom_files import part10
from tests.contract.localaws.endpoint import until

if TYPE_CHECKING:
    from tests.contract.localaws.endpoint import Endpoint

FILES = {f"{number}.dcm": part10() for number in range(4)}


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> Any:
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def manifest_of(endpoint: Endpoint, job: dict[str, Any]) -> bytes | None:
    return endpoint.read(f"{job['outputS3Uri']}job-output-manifest.json")


def test_all_files_rejected_though_completed(faulty: Endpoint) -> None:
    faulty.faults({"kind": "all_files_rejected", "job_name": "night-*"})
    job = faulty.import_files(FILES, jobName="night-1")
    assert job.properties["jobStatus"] == "COMPLETED"
    assert (job.summary["numberOfFilesWithCustomerError"], job.summary["numberOfImportedFiles"]) == (4, 0)
    assert faulty.import_files(FILES, jobName="day-1").summary["numberOfImportedFiles"] == 4


def test_server_errors_on_the_files_of_a_key_pattern(faulty: Endpoint) -> None:
    faulty.faults({"kind": "server_error_on_files", "key": "*/[12].dcm"})
    job = faulty.import_files(FILES)
    assert (job.summary["numberOfFilesWithServerError"], job.summary["numberOfImportedFiles"]) == (2, 2)
    assert {line["exception"]["exceptionType"] for line in job.failure} == {"InternalServerException"}


def test_a_manifest_comes_late(faulty: Endpoint) -> None:
    faulty.faults({"kind": "manifest_late", "seconds": 0.5})
    job = faulty.ended(faulty.start(faulty.upload(FILES)))
    assert job["jobStatus"] == "COMPLETED"
    assert manifest_of(faulty, job) is None
    assert faulty.output(job).summary["numberOfImportedFiles"] == 4


def test_a_manifest_lacks_lines(faulty: Endpoint) -> None:
    faulty.faults({"kind": "manifest_partial", "key": "*/0.dcm"})
    job = faulty.import_files(FILES)
    assert job.summary["numberOfImportedFiles"] == 4
    assert sorted(line["inputFile"][-5:] for line in job.success) == ["1.dcm", "2.dcm", "3.dcm"]


def test_a_share_of_the_lines_is_missing_and_always_the_same_one(faulty: Endpoint) -> None:
    faulty.faults({"kind": "manifest_partial", "share": 0.5})
    uri = faulty.upload({f"{number}.txt": b"no DICOM" for number in range(60)})
    jobs = [faulty.output(faulty.ended(faulty.start(uri))) for _ in range(2)]
    assert 10 < len(jobs[0].failure) < 50
    assert jobs[0].failure == jobs[1].failure


@pytest.mark.parametrize("keep_results", [False, True])
def test_a_manifest_is_missing(faulty: Endpoint, keep_results: bool) -> None:
    faulty.faults({"kind": "manifest_missing", "keep_results": keep_results})
    job = faulty.ended(faulty.start(faulty.upload(FILES)))
    assert job["jobStatus"] == "COMPLETED"
    assert manifest_of(faulty, job) is None
    assert (faulty.read(f"{job['outputS3Uri']}SUCCESS/success.ndjson") is not None) is keep_results


def test_a_job_fails_with_output(faulty: Endpoint) -> None:
    faulty.faults({"kind": "job_failed_with_output"})
    job = faulty.import_files(FILES)
    assert (job.properties["jobStatus"], len(job.success)) == ("FAILED", 4)
    assert job.properties["message"]


def test_a_job_fails_without_output(faulty: Endpoint) -> None:
    faulty.faults({"kind": "job_failed_without_output", "input_s3_uri": "s3://contract-input/*"})
    job = faulty.ended(faulty.start(faulty.upload(FILES)))
    assert (job["jobStatus"], manifest_of(faulty, job)) == ("FAILED", None)


def test_a_job_is_stuck_until_the_fault_is_taken_away(faulty: Endpoint) -> None:
    faulty.faults({"kind": "stuck_in_progress"})
    job_id = faulty.start(faulty.upload(FILES))
    until(lambda: faulty.get_job(job_id), lambda job: job["jobStatus"] == "IN_PROGRESS")
    seen = faulty.calls()["operations"]["GetDICOMImportJob"]["200"]
    until(faulty.calls, lambda _: faulty.get_job(job_id)["jobStatus"] == "IN_PROGRESS")
    assert faulty.calls()["operations"]["GetDICOMImportJob"]["200"] > seen
    faulty.faults()
    assert faulty.ended(job_id)["jobStatus"] == "COMPLETED"


def test_a_storm_of_throttling_ends_after_its_number_of_calls(faulty: Endpoint) -> None:
    faulty.faults({"kind": "throttle_storm", "operation": "StartDICOMImportJob", "times": 2})
    uri = faulty.upload(FILES)
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            faulty.start(uri)
        assert code_of(caught) == ("ThrottlingException", 429)
    assert faulty.ended(faulty.start(uri))["jobStatus"] == "COMPLETED"


def test_a_storm_of_quota_refusals(faulty: Endpoint) -> None:
    faulty.faults({"kind": "quota_storm", "job_name": "full-*", "times": 1})
    uri = faulty.upload(FILES)
    with pytest.raises(ClientError) as caught:
        faulty.start(uri, jobName="full-1")
    assert code_of(caught) == ("ServiceQuotaExceededException", 402)
    faulty.ended(faulty.start(uri, jobName="full-1"))


def test_an_answer_comes_slowly(faulty: Endpoint) -> None:
    faulty.faults({"kind": "slow_responses", "operation": "ListDatastores", "seconds": 0.3, "times": 1})
    began = time.monotonic()
    faulty.imaging.list_datastores()
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("answer", ["drop", "500"])
def test_a_lost_answer_does_not_start_a_second_job(faulty: Endpoint, answer: str) -> None:
    faulty.faults({"kind": "lost_response", "operation": "StartDICOMImportJob", "times": 1, "answer": answer})
    uri, token = faulty.upload(FILES), uuid.uuid4().hex
    before = faulty.calls()["jobs_started"]
    with pytest.raises((ConnectionClosedError, ClientError)):
        faulty.start(uri, clientToken=token)
    job_id = faulty.start(uri, clientToken=token)
    calls = faulty.calls()
    assert calls["jobs_started"] == before + 1
    assert [job["jobId"] for job in calls["jobs"] if job["clientToken"] == token] == [job_id]
    faulty.ended(job_id)


def test_a_retrying_client_does_not_notice_a_lost_answer(faulty: Endpoint) -> None:
    faulty.faults({"kind": "lost_response", "operation": "StartDICOMImportJob", "times": 1})
    config = Config(inject_host_prefix=False, retries={"mode": "standard", "total_max_attempts": 3})
    client = boto3.client("medical-imaging", region_name="us-east-1", endpoint_url=faulty.url, config=config)
    before = faulty.calls()["jobs_started"]
    job = client.start_dicom_import_job(
        datastoreId=faulty.datastore_id,
        dataAccessRoleArn=faulty.role_arn,
        inputS3Uri=faulty.upload(FILES),
        outputS3Uri=faulty.output_uri,
    )
    assert faulty.calls()["jobs_started"] == before + 1
    faulty.ended(job["jobId"])
