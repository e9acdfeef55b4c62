"""StartFHIRExportJob, DescribeFHIRExportJob, ListFHIRExportJobs, and what an export writes."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from tests.contract.localaws.endpoint import ON_AWS, until
from tests.contract.localaws.healthlake import ENDED, json_lines, ndjson, new_datastore, patient

if TYPE_CHECKING:
    from tests.contract.localaws.healthlake import HealthLakeEndpoint

pytestmark = pytest.mark.skipif(ON_AWS, reason="needs a data store that holds nothing else")
ORGANIZATION = {"resourceType": "Organization", "id": "org", "name": "Clinic"}


@pytest.fixture(scope="module")
def filled(healthlake: HealthLakeEndpoint) -> str:
    """A data store with three resources of two types, one of them in its second version."""
    datastore_id = new_datastore(healthlake.client)
    healthlake.datastore_id, before = datastore_id, healthlake.datastore_id
    try:
        body = ndjson(patient("p0"), ORGANIZATION, patient("p1"), patient("p0", active=True))
        assert healthlake.import_files({"a.ndjson": body}).status == "COMPLETED"
    finally:
        healthlake.datastore_id = before
    return datastore_id


def started(healthlake: HealthLakeEndpoint, datastore_id: str, **arguments: Any) -> str:
    request = {
        "OutputDataConfig": healthlake.output(),
        "DatastoreId": datastore_id,
        "DataAccessRoleArn": healthlake.role_arn,
        **arguments,
    }
    job_id: str = healthlake.client.start_fhir_export_job(**request)["JobId"]
    return job_id


def ended(healthlake: HealthLakeEndpoint, datastore_id: str, job_id: str) -> dict[str, Any]:
    def described() -> dict[str, Any]:
        answer = healthlake.client.describe_fhir_export_job(DatastoreId=datastore_id, JobId=job_id)
        properties: dict[str, Any] = answer["ExportJobProperties"]
        return properties

    job: dict[str, Any] = until(described, lambda seen: seen["JobStatus"] in ENDED)
    return job


def test_an_export_writes_the_current_resources_by_type(healthlake: HealthLakeEndpoint, filled: str) -> None:
    job = ended(healthlake, filled, started(healthlake, filled))
    folder = job["OutputDataConfig"]["S3Configuration"]["S3Uri"]
    assert job["JobStatus"] == "COMPLETED"
    assert folder.endswith(f"/{filled}-FHIR_EXPORT-{job['JobId']}/")
    assert sorted(healthlake.listed(folder)) == [
        "Manifest.json",
        "Organization/Organization-1.ndjson",
        "Patient/Patient-1.ndjson",
    ]
    first, second = json_lines(healthlake.places.read(f"{folder}Patient/Patient-1.ndjson"))
    assert (first["id"], first["active"], first["meta"]["versionId"], second["id"]) == ("p0", True, "2", "p1")
    manifest = json.loads(healthlake.places.read(f"{folder}Manifest.json") or b"")
    assert manifest["numberOfResourcesExported"] == 3
    assert {item["type"]: item["count"] for item in manifest["output"]} == {"Organization": 1, "Patient": 2}


def test_decimals_are_exported_with_the_digits_that_were_imported(healthlake: HealthLakeEndpoint) -> None:
    digits = ("100000000000000000000.5", "1.10", "1e2")
    lines = [
        f'{{"resourceType":"Basic","id":"b{number}","code":{{"text":"x"}},'
        f'"extension":[{{"url":"urn:x","valueDecimal":{text}}}]}}'
        for number, text in enumerate(digits)
    ]
    datastore_id = new_datastore(healthlake.client)
    healthlake.datastore_id, before = datastore_id, healthlake.datastore_id
    try:
        assert healthlake.import_files({"a.ndjson": "\n".join(lines).encode()}).status == "COMPLETED"
    finally:
        healthlake.datastore_id = before
    job = ended(healthlake, datastore_id, started(healthlake, datastore_id))
    folder = job["OutputDataConfig"]["S3Configuration"]["S3Uri"]
    exported = (healthlake.places.read(f"{folder}Basic/Basic-1.ndjson") or b"").decode().splitlines()
    assert [f'"valueDecimal":{text}}}' in line for text, line in zip(digits, exported, strict=True)] == [True] * 3


def test_exports_are_listed_and_their_tokens_remembered(healthlake: HealthLakeEndpoint, filled: str) -> None:
    name, token = f"export-{uuid.uuid4().hex}", str(uuid.uuid4())
    job_id = started(healthlake, filled, JobName=name, ClientToken=token)
    assert started(healthlake, filled, JobName=name, ClientToken=token) == job_id
    ended(healthlake, filled, job_id)
    found = healthlake.client.list_fhir_export_jobs(DatastoreId=filled, JobName=name, JobStatus="COMPLETED")
    assert [job["JobId"] for job in found["ExportJobPropertiesList"]] == [job_id]


@pytest.mark.parametrize(("uri", "key"), [("s3://no-such-bucket-at-all/x/", "a"), ("s3://contract-output/x/", "a b")])
def test_an_output_that_cannot_be_used_is_refused(
    healthlake: HealthLakeEndpoint, filled: str, uri: str, key: str
) -> None:
    output = {"S3Configuration": {"S3Uri": uri, "KmsKeyId": key}}
    with pytest.raises(healthlake.client.exceptions.ValidationException):
        started(healthlake, filled, OutputDataConfig=output)


def test_an_export_is_no_import(healthlake: HealthLakeEndpoint, filled: str) -> None:
    job_id = started(healthlake, filled)
    ended(healthlake, filled, job_id)
    with pytest.raises(ClientError) as caught:
        healthlake.client.describe_fhir_import_job(DatastoreId=filled, JobId=job_id)
    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("fault", "status", "left"),
    [
        ({"kind": "job_failed_without_output"}, "FAILED", 0),
        ({"kind": "job_failed_with_output"}, "FAILED", 3),
        ({"kind": "completed_with_errors"}, "COMPLETED_WITH_ERRORS", 3),
        ({"kind": "cancelled"}, "CANCEL_COMPLETED", 0),
        ({"kind": "cancelled", "key": "Patient/*"}, "CANCEL_COMPLETED", 2),
        ({"kind": "manifest_missing"}, "COMPLETED", 0),
        ({"kind": "manifest_missing", "keep_results": True}, "COMPLETED", 2),
    ],
)
def test_an_export_has_its_faults_too(
    ill: HealthLakeEndpoint, filled: str, fault: dict[str, Any], status: str, left: int
) -> None:
    ill.places.faults(fault)
    job = ended(ill, filled, started(ill, filled))
    assert job["JobStatus"] == status
    assert len(ill.listed(job["OutputDataConfig"]["S3Configuration"]["S3Uri"])) == left
