"""StartDICOMImportJob, GetDICOMImportJob, ListDICOMImportJobs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from tests.contract.localaws.dicom_files import part10

if TYPE_CHECKING:
    from tests.contract.localaws.endpoint import Endpoint


def test_a_job_runs_to_its_end_and_tells_where_its_output_lies(endpoint: Endpoint) -> None:
    uri = endpoint.upload({"a.dcm": part10()})
    job_id = endpoint.start(uri, jobName="contract/job-1")
    assert endpoint.get_job(job_id)["jobStatus"] in {"SUBMITTED", "IN_PROGRESS", "COMPLETED"}
    job = endpoint.ended(job_id)
    assert (job["jobStatus"], job["jobName"], job["inputS3Uri"]) == ("COMPLETED", "contract/job-1", uri)
    assert job["submittedAt"] <= job["endedAt"]
    assert job["outputS3Uri"].startswith(endpoint.output_uri)


def test_jobs_are_listed_by_status_in_pages(endpoint: Endpoint) -> None:
    started = {endpoint.start(endpoint.upload({"a.dcm": part10()})) for _ in range(2)}
    for job_id in started:
        endpoint.ended(job_id)
    pages = endpoint.imaging.get_paginator("list_dicom_import_jobs").paginate(
        datastoreId=endpoint.datastore_id, jobStatus="COMPLETED", PaginationConfig={"PageSize": 1, "MaxItems": 200}
    )
    found = [job for page in pages for job in page["jobSummaries"]]
    assert started <= {job["jobId"] for job in found}
    assert {job["jobStatus"] for job in found} == {"COMPLETED"}


def test_the_same_client_token_starts_one_job(endpoint: Endpoint) -> None:
    uri, token = endpoint.upload({"a.dcm": part10()}), uuid.uuid4().hex
    first = endpoint.start(uri, jobName="once", clientToken=token)
    assert endpoint.start(uri, jobName="once", clientToken=token) == first
    endpoint.ended(first)
    assert endpoint.start(uri, jobName="once", clientToken=token) == first


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"datastoreId": "0" * 32}, "ResourceNotFoundException"),
        ({"jobName": "scheduled__2026-01-01T00:00:00+00:00"}, "ValidationException"),
        ({"clientToken": "not a token"}, "ValidationException"),
        ({"inputS3Uri": "https://not-s3/x"}, "ValidationException"),
        ({"dataAccessRoleArn": "arn:aws:iam::123:role/too-short"}, "ValidationException"),
    ],
)
def test_a_refused_start_names_its_reason(endpoint: Endpoint, change: dict[str, str], code: str) -> None:
    with pytest.raises(ClientError) as caught:
        endpoint.start(endpoint.input_uri, **change)
    assert caught.value.response["Error"]["Code"] == code


def test_an_unknown_job_is_not_found(endpoint: Endpoint) -> None:
    with pytest.raises(endpoint.imaging.exceptions.ResourceNotFoundException):
        endpoint.get_job("0" * 32)
