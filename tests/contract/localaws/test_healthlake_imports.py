"""StartFHIRImportJob, DescribeFHIRImportJob, ListFHIRImportJobs, and what an import leaves on S3."""

from __future__ import annotations

import gzip
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError

from tests.contract.localaws.healthlake import names_of, ndjson, patient, patients

if TYPE_CHECKING:
    from tests.contract.localaws.healthlake import HealthLakeEndpoint

BROKEN = b'{"resourceType": "Patient", "id": '


def test_an_import_runs_to_its_end_and_tells_where_its_output_lies(healthlake: HealthLakeEndpoint) -> None:
    uri = healthlake.places.upload({"a.ndjson": patients(3)})
    job_id = healthlake.start(uri, JobName="night 1_2.3:4/5=6+7-8%9@")
    assert healthlake.get_job(job_id)["JobStatus"] in {"SUBMITTED", "QUEUED", "IN_PROGRESS", "COMPLETED"}
    job = healthlake.ended(job_id)
    assert (job["JobStatus"], job["ValidationLevel"], job["InputDataConfig"]) == ("COMPLETED", "strict", {"S3Uri": uri})
    assert job["SubmitTime"] <= job["EndTime"]
    output = job["JobOutputDataConfig"]["S3Configuration"]
    assert output["S3Uri"].endswith(f"/{healthlake.datastore_id}-FHIR_IMPORT-{job_id}/")
    assert output["KmsKeyId"] == healthlake.kms_key_id
    report = job["JobProgressReport"]
    assert (report["TotalNumberOfScannedFiles"], report["TotalNumberOfImportedFiles"]) == (1, 1)
    assert (report["TotalNumberOfResourcesScanned"], report["TotalNumberOfResourcesImported"]) == (3, 3)
    assert not any("NonFhir" in name for name in report)


def test_the_service_proves_that_it_can_write(healthlake: HealthLakeEndpoint) -> None:
    folder = f"{healthlake.places.output_uri.rstrip('/')}/{uuid.uuid4().hex}"
    job_id = healthlake.start(
        healthlake.places.upload({"a.ndjson": patients(1)}), JobOutputDataConfig=healthlake.output(folder)
    )
    assert healthlake.places.read(f"{folder}/.healthlake_write_access_check_file.temp") == b""
    healthlake.ended(job_id)


def test_the_manifest_counts_every_line_once(healthlake: HealthLakeEndpoint) -> None:
    good, bad = patient("good"), patient("bad", gender="lady")
    body = ndjson(good, bad) + BROKEN + b"\n\n" + ndjson({"resourceType": "Patient"}) + b"[1]"
    job = healthlake.import_files({"v1/Patient.ndjson": body, "v2/Patient.ndjson": patients(2)})
    assert job.status == "COMPLETED_WITH_ERRORS"
    assert job.numbers() == (7, 3, 4, 0)
    assert (job.manifest["numberOfScannedFiles"], job.manifest["numberOfFilesImported"]) == (2, 2)
    assert 0 < job.manifest["sizeOfDataImportedSuccessfullyInMB"] < job.manifest["sizeOfScannedFilesInMB"]
    folder = job.properties["JobOutputDataConfig"]["S3Configuration"]["S3Uri"]
    assert job.manifest["outputDataConfig"] == {"s3Uri": folder, "encryptionKeyID": healthlake.kms_key_id}
    assert job.manifest["successOutput"] == {"successOutputS3Uri": f"{folder}SUCCESS/"}
    assert job.manifest["failureOutput"] == {"failureOutputS3Uri": f"{folder}FAILURE/"}
    assert set(job.files) == {"SUCCESS/v1/Patient.ndjson", "SUCCESS/v2/Patient.ndjson", "FAILURE/v1/Patient.ndjson"}


def test_a_failure_line_names_the_line_the_resource_and_the_reason(healthlake: HealthLakeEndpoint) -> None:
    body = ndjson(patient("good"), patient("bad", gender="lady")) + BROKEN + b"\n" + ndjson({"resourceType": "Patient"})
    bad, broken, nameless = healthlake.import_files({"a.ndjson": body}).files["FAILURE/a.ndjson"]
    assert (bad["lineId"], bad["resourceType"], bad["resourceId"]) == (2, "Patient", "bad")
    assert bad["UpdateResourceResponse"]["statusCode"] == 400
    outcome = bad["UpdateResourceResponse"]["jsonBlob"]
    assert outcome["resourceType"] == "OperationOutcome"
    assert outcome["issue"][0]["location"] == ["Patient.gender"]
    assert broken == {"lineId": 3, "errorMessage": "The line is not valid JSON"}
    assert (nameless["lineId"], nameless["resourceId"]) == (4, None)


def test_a_success_line_has_the_same_envelope(healthlake: HealthLakeEndpoint) -> None:
    name = uuid.uuid4().hex
    for code, version in ((201, "1"), (200, "2")):
        (line,) = healthlake.import_files({"a.ndjson": ndjson(patient(name))}).files["SUCCESS/a.ndjson"]
        assert (line["lineId"], line["resourceType"], line["resourceId"]) == (1, "Patient", name)
        answer = line["UpdateResourceResponse"]
        assert (answer["statusCode"], answer["jsonBlob"]["meta"]["versionId"]) == (code, version)


def test_without_a_failure_there_is_no_failure_folder(healthlake: HealthLakeEndpoint) -> None:
    job = healthlake.import_files({"a.ndjson": patients(2)})
    assert list(job.files) == ["SUCCESS/a.ndjson"]
    assert names_of(job.files["SUCCESS/a.ndjson"]) == ["Patient/p0", "Patient/p1"]


def test_the_levels_store_more_and_more(healthlake: HealthLakeEndpoint) -> None:
    unknown_profile = patient("profile", meta={"profile": ["https://example.org/StructureDefinition/none"]})
    files = {"a.ndjson": ndjson(patient("fine"), unknown_profile, patient("odd", birthDate="19700102"), patient("a b"))}
    stored = {
        level: sorted(name for path in job.files if path.startswith("SUCCESS") for name in job.ids(path))
        for level in ("strict", "structure-only", "minimal")
        for job in [healthlake.import_files(files, ValidationLevel=level)]
    }
    assert stored == {
        "strict": ["fine"],
        "structure-only": ["fine", "profile"],
        "minimal": ["fine", "odd", "profile"],
    }


def test_minimal_lists_apart_what_it_stored_in_spite_of_issues(healthlake: HealthLakeEndpoint) -> None:
    files = {"a.ndjson": ndjson(patient("fine"), patient("odd", birthDate="19700102"))}
    job = healthlake.import_files(files, ValidationLevel="minimal")
    assert (job.status, job.properties["ValidationLevel"], job.numbers()) == ("COMPLETED", "minimal", (2, 2, 0, 0))
    assert job.ids("SUCCESS/a.ndjson") == ["fine"]
    (line,) = job.files["SUCCESS_WITH_SEARCH_VALIDATION_FAILURES/a.ndjson"]
    assert line["resourceId"] == "odd"
    assert line["UpdateResourceResponse"]["jsonBlob"]["issue"][0]["location"] == ["Patient.birthDate"]


def test_only_plain_ndjson_is_read(healthlake: HealthLakeEndpoint) -> None:
    uri = healthlake.places.upload(
        {
            "a.ndjson": patients(1),
            "b.json": patients(1),
            "c.ndjson.gz": gzip.compress(patients(1)),
            "d.ndjson": gzip.compress(patients(1)),
            "sub/": b"",
        }
    )
    healthlake.places.put(f"{uri}e.ndjson", patients(1), ContentEncoding="gzip")
    job = healthlake.read_output(healthlake.ended(healthlake.start(uri)))
    assert (job.status, job.numbers()) == ("COMPLETED_WITH_ERRORS", (1, 1, 0, 0))
    assert (job.manifest["numberOfScannedFiles"], job.manifest["numberOfFilesImported"]) == (5, 1)
    assert job.properties["JobProgressReport"]["TotalNumberOfFilesReadWithCustomerError"] == 4
    assert job.properties["Message"] == "0 resources and 4 files have customer errors"


def test_line_ends_of_all_kinds_and_no_last_one(healthlake: HealthLakeEndpoint) -> None:
    body = patients(2).replace(b"\n", b"\r\n") + json.dumps(patient("p2", name=[{"text": "a\u2028b"}])).encode()
    job = healthlake.import_files({"a.ndjson": body})
    assert [(line["lineId"], line["resourceId"]) for line in job.files["SUCCESS/a.ndjson"]] == [
        (1, "p0"),
        (2, "p1"),
        (3, "p2"),
    ]


def test_an_empty_prefix_completes_with_nothing(healthlake: HealthLakeEndpoint) -> None:
    job = healthlake.read_output(healthlake.ended(healthlake.start(f"{healthlake.places.input_uri}nothing-here/")))
    assert (job.status, job.numbers(), job.files) == ("COMPLETED", (0, 0, 0, 0), {})


def test_the_same_client_token_starts_one_job(healthlake: HealthLakeEndpoint) -> None:
    uri, token = healthlake.places.upload({"a.ndjson": patients(1)}), str(uuid.uuid4())
    first = healthlake.start(uri, JobName="once", ClientToken=token)
    assert healthlake.start(uri, JobName="once", ClientToken=token) == first
    healthlake.ended(first)
    assert healthlake.start(uri, JobName="once", ClientToken=token) == first
    with pytest.raises(ClientError) as caught:
        healthlake.start(uri, JobName="twice", ClientToken=token)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


def test_jobs_are_listed_by_name_status_and_time(healthlake: HealthLakeEndpoint) -> None:
    name = f"listed-{uuid.uuid4().hex}"
    uri = healthlake.places.upload({"a.ndjson": patients(1)})
    started = [healthlake.start(uri, JobName=name) for _ in range(3)]
    for job_id in started:
        healthlake.ended(job_id)

    def listed(**conditions: Any) -> list[str]:
        request = {"DatastoreId": healthlake.datastore_id, "JobName": name, "MaxResults": 2, **conditions}
        found: list[str] = []
        while True:
            answer = healthlake.client.list_fhir_import_jobs(**request)
            found += [job["JobId"] for job in answer["ImportJobPropertiesList"]]
            if "NextToken" not in answer:
                return found
            request["NextToken"] = answer["NextToken"]

    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert listed() == listed(JobStatus="COMPLETED", SubmittedBefore=tomorrow) == started[::-1]
    assert listed(JobStatus="FAILED") == listed(SubmittedAfter=tomorrow) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"DatastoreId": "0" * 32}, "ResourceNotFoundException"),
        ({"JobName": "comma, not allowed"}, "ValidationException"),
        ({"ClientToken": "under_score"}, "ValidationException"),
        ({"ValidationLevel": "lax"}, "ValidationException"),
        ({"InputDataConfig": {"S3Uri": "https://not-s3/x"}}, "ValidationException"),
        ({"InputDataConfig": {"S3Uri": "s3://no-such-bucket-at-all/x/"}}, "ValidationException"),
        ({"DataAccessRoleArn": "arn:aws:iam::123:role/too-short"}, "ValidationException"),
        (
            {"JobOutputDataConfig": {"S3Configuration": {"S3Uri": "s3://no-such-bucket-at-all/x/", "KmsKeyId": "a"}}},
            "ValidationException",
        ),
        (
            {"JobOutputDataConfig": {"S3Configuration": {"S3Uri": "s3://abc/", "KmsKeyId": "a b"}}},
            "ValidationException",
        ),
    ],
)
def test_a_refused_start_names_its_reason(healthlake: HealthLakeEndpoint, change: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError) as caught:
        healthlake.start(healthlake.places.input_uri, **change)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_an_output_without_a_key_is_refused_before_it_is_sent(healthlake: HealthLakeEndpoint) -> None:
    with pytest.raises(ParamValidationError, match="KmsKeyId"):
        healthlake.start("s3://abc/", JobOutputDataConfig={"S3Configuration": {"S3Uri": "s3://abc/"}})


def test_an_unknown_job_is_not_found(healthlake: HealthLakeEndpoint) -> None:
    with pytest.raises(healthlake.client.exceptions.ResourceNotFoundException):
        healthlake.get_job("0" * 32)
