"""Every fault switch, as a client of HealthLake meets it; AWS has none, so there this file is skipped."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.contract.localaws.endpoint import until
from tests.contract.localaws.healthlake import ENDED, patients

if TYPE_CHECKING:
    from tests.contract.localaws.healthlake import HealthLakeEndpoint

FILES = {"a.ndjson": patients(4)}
START = "StartFHIRImportJob"


def folder_of(job: dict[str, Any]) -> str:
    return str(job["JobOutputDataConfig"]["S3Configuration"]["S3Uri"])


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def in_status(ill: HealthLakeEndpoint, job_id: str, status: str) -> None:
    until(lambda: ill.get_job(job_id), lambda job: job["JobStatus"] == status)


@pytest.mark.parametrize("kind", ["all_resources_rejected", "all_files_rejected"])
def test_everything_is_rejected(ill: HealthLakeEndpoint, kind: str) -> None:
    ill.places.faults({"kind": kind, "job_name": "night-*"})
    job = ill.import_files(FILES, JobName="night-1")
    assert (job.status, job.numbers()) == ("COMPLETED_WITH_ERRORS", (4, 0, 4, 0))
    assert len(job.files["FAILURE/a.ndjson"]) == 4
    assert ill.import_files(FILES, JobName="day-1").numbers() == (4, 4, 0, 0)


def test_server_errors_stand_in_no_file_and_no_status(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "server_error_on_resources", "key": "Patient/p[12]"})
    job = ill.import_files(FILES)
    assert (job.status, job.numbers()) == ("COMPLETED", (4, 2, 0, 2))
    assert job.files == {"SUCCESS/a.ndjson": job.files["SUCCESS/a.ndjson"]}
    assert job.ids("SUCCESS/a.ndjson") == ["p0", "p3"]
    report = job.properties["JobProgressReport"]
    assert (report["TotalNumberOfResourcesScanned"], report["TotalNumberOfResourcesImported"]) == (4, 2)


def test_a_share_of_the_resources_is_struck_and_always_the_same_one(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "server_error_on_resources", "share": 0.5})
    jobs = [ill.import_files({"a.ndjson": patients(60)}) for _ in range(2)]
    assert 10 < jobs[0].numbers()[3] < 50
    assert jobs[0].ids("SUCCESS/a.ndjson") == jobs[1].ids("SUCCESS/a.ndjson")


def test_a_manifest_comes_late(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "manifest_late", "seconds": 0.5})
    job = ill.ended(ill.start(ill.places.upload(FILES)))
    assert (job["JobStatus"], ill.listed(folder_of(job))) == ("COMPLETED", [])
    assert ill.read_output(job).ids("SUCCESS/a.ndjson") == ["p0", "p1", "p2", "p3"]


def test_a_manifest_lacks_lines(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "manifest_partial", "key": "Patient/p0"})
    job = ill.import_files(FILES)
    assert (job.status, job.numbers()) == ("COMPLETED", (4, 4, 0, 0))
    assert job.ids("SUCCESS/a.ndjson") == ["p1", "p2", "p3"]


@pytest.mark.parametrize(("keep_results", "left"), [(False, []), (True, ["SUCCESS/a.ndjson"])])
def test_a_manifest_is_missing(ill: HealthLakeEndpoint, keep_results: bool, left: list[str]) -> None:
    ill.places.faults({"kind": "manifest_missing", "keep_results": keep_results})
    job = ill.ended(ill.start(ill.places.upload(FILES)))
    assert (job["JobStatus"], ill.listed(folder_of(job))) == ("COMPLETED", left)


def test_a_job_fails_with_output(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "job_failed_with_output"})
    job = ill.import_files(FILES)
    assert (job.status, job.numbers()) == ("FAILED", (4, 4, 0, 0))
    assert job.properties["Message"]


def test_a_job_fails_without_output(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "job_failed_without_output", "input_s3_uri": "s3://contract-input/*"})
    job = ill.ended(ill.start(ill.places.upload(FILES)))
    assert (job["JobStatus"], ill.listed(folder_of(job))) == ("FAILED", [])


def test_a_job_completes_with_errors_though_all_is_in(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "completed_with_errors"})
    job = ill.import_files(FILES)
    assert (job.status, job.numbers()) == ("COMPLETED_WITH_ERRORS", (4, 4, 0, 0))


@pytest.mark.parametrize("status", ["CANCEL_COMPLETED", "CANCEL_FAILED"])
def test_a_job_is_cancelled(ill: HealthLakeEndpoint, status: str) -> None:
    ill.places.faults({"kind": "cancelled", "answer": status})
    job = ill.ended(ill.start(ill.places.upload(FILES)))
    assert (job["JobStatus"], ill.listed(folder_of(job))) == (status, [])


def test_a_job_is_cancelled_when_a_part_is_in(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "cancelled", "key": "Patient/p[23]"})
    job = ill.import_files(FILES)
    assert (job.status, job.numbers()) == ("CANCEL_COMPLETED", (2, 2, 0, 0))
    assert job.ids("SUCCESS/a.ndjson") == ["p0", "p1"]


def test_one_import_runs_and_the_others_wait_in_their_order(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "stuck_in_progress", "job_name": "first"})
    uri = ill.places.upload(FILES)
    first = ill.start(uri, JobName="first")
    in_status(ill, first, "IN_PROGRESS")
    others = [ill.start(uri, JobName=f"other-{number}") for number in range(3)]
    for job_id in others:
        in_status(ill, job_id, "QUEUED")
        assert "JobProgressReport" not in ill.get_job(job_id)
    assert ill.get_job(first)["JobStatus"] == "IN_PROGRESS"
    ill.places.faults()
    ended = [ill.ended(job_id)["EndTime"] for job_id in (first, *others)]
    assert ended == sorted(ended)


def test_a_job_is_queued_for_long_while_none_runs(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "queued_long", "job_name": "patient"})
    uri = ill.places.upload(FILES)
    waiting = ill.start(uri, JobName="patient")
    in_status(ill, waiting, "QUEUED")
    assert ill.ended(ill.start(uri))["JobStatus"] == "COMPLETED"
    assert ill.get_job(waiting)["JobStatus"] == "QUEUED"
    ill.places.faults()
    assert ill.ended(waiting)["JobStatus"] == "COMPLETED"


def test_a_job_is_queued_for_some_seconds(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "queued_long", "seconds": 0.4})
    job = ill.ended(ill.start(ill.places.upload(FILES)))
    assert (job["EndTime"] - job["SubmitTime"]).total_seconds() >= 0.4


@pytest.mark.parametrize("answer", ["AccessDeniedException", "ValidationException"])
def test_a_role_cannot_be_assumed_by_the_first_starts(ill: HealthLakeEndpoint, answer: str) -> None:
    ill.places.faults({"kind": "role_not_assumable", "times": 2, "answer": answer})
    uri = ill.places.upload(FILES)
    ill.client.list_fhir_import_jobs(DatastoreId=ill.datastore_id)
    for _ in range(2):
        with pytest.raises(ClientError, match="role") as caught:
            ill.start(uri)
        assert code_of(caught) == (answer, 400)
    assert ill.ended(ill.start(uri))["JobStatus"] == "COMPLETED"


@pytest.mark.parametrize(
    ("kind", "code"),
    [("throttle_storm", "ThrottlingException"), ("quota_storm", "ServiceQuotaExceededException")],
)
def test_a_storm_ends_after_its_number_of_calls(ill: HealthLakeEndpoint, kind: str, code: str) -> None:
    ill.places.faults({"kind": kind, "operation": START, "times": 2})
    uri = ill.places.upload(FILES)
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            ill.start(uri)
        assert code_of(caught) == (code, 400)
    assert ill.ended(ill.start(uri))["JobStatus"] == "COMPLETED"


@pytest.mark.parametrize("answer", ["drop", "500"])
def test_a_lost_answer_does_not_start_a_second_job(ill: HealthLakeEndpoint, answer: str) -> None:
    ill.places.faults({"kind": "lost_response", "operation": START, "times": 1, "answer": answer})
    uri, token = ill.places.upload(FILES), str(uuid.uuid4())
    before = ill.places.calls()["jobs_started"]
    with pytest.raises((ConnectionClosedError, ClientError)):
        ill.start(uri, ClientToken=token)
    job_id = ill.start(uri, ClientToken=token)
    started = [job for job in ill.places.calls()["jobs"] if job["clientToken"] == token]
    assert [(job["service"], job["jobId"]) for job in started] == [("healthlake", job_id)]
    assert ill.places.calls()["jobs_started"] == before + 1
    ill.ended(job_id)


def test_a_fault_that_the_other_service_does_not_know_is_not_used_up(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "cancelled", "times": 1})
    assert ill.places.import_files({"a.txt": b"no image"}).properties["jobStatus"] == "COMPLETED"
    assert ill.ended(ill.start(ill.places.upload(FILES)))["JobStatus"] == "CANCEL_COMPLETED"


def test_a_fault_of_the_other_service_s_jobs_can_be_told_apart_by_its_place(ill: HealthLakeEndpoint) -> None:
    ill.places.faults({"kind": "job_failed_without_output", "input_s3_uri": "s3://elsewhere/*"})
    assert ill.import_files(FILES).status == "COMPLETED"


def test_every_end_is_an_end(ill: HealthLakeEndpoint) -> None:
    """The statuses that `ended` waits for are those of the model that no job leaves."""
    model = ill.client.meta.service_model.shape_for("JobStatus")
    assert set(model.enum) - ENDED == {"SUBMITTED", "QUEUED", "IN_PROGRESS", "CANCEL_SUBMITTED", "CANCEL_IN_PROGRESS"}
