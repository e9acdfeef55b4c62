"""HealthLake over HTTP: settings, quotas, throttles, choices of our own, events, and what is logged."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from localaws.healthlake.datastores import Datastores
from localaws.server import serve
from localaws.settings import Seed
from localaws.throttles import Rate
from tests.contract.localaws.endpoint import ROLE, Endpoint, local_imaging, local_s3, until
from tests.contract.localaws.healthlake import (
    HealthLakeEndpoint,
    local_healthlake,
    ndjson,
    patient,
    patients,
)
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATASTORE = "d" * 32
PLACES = ("s3://contract-input/in/", "s3://contract-output/out/")
LIMITS = {
    "max_fhir_files_per_job": 3,
    "max_fhir_bytes_per_job": 2000,
    "max_fhir_file_bytes": 1000,
    "max_resource_bytes": 400,
    "max_queued_imports": 2,
    "export_resources_per_file": 2,
}
CHOICES = {
    "warned_in_success": "yes",
    "output_uri": "as_given",
    "fhir_manifest": "manifest.json",
    "structure_only": "structure",
}
OTHERS = {
    "choices": CHOICES,
    "public_url": "https://aws.example.org/",
    "throttles": {"ListFHIRDatastores": Rate(0.001, 2)},
}


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def healthlake(aws: str) -> Iterator[HealthLakeEndpoint]:
    seeds = (Seed(DATASTORE, "seeded"),)
    with serve(s3_endpoint=aws, events_endpoint=aws, healthlake_datastore=seeds, **LIMITS, **OTHERS) as url:
        places = Endpoint(local_imaging(url), local_s3(aws), DATASTORE, ROLE, *PLACES, url)
        yield HealthLakeEndpoint(local_healthlake(url), places, DATASTORE, ROLE, "alias/test")


@pytest.fixture(scope="module")
def received(aws: str) -> Callable[[], list[dict[str, Any]]]:
    """Return what a queue behind a rule on HealthLake's events has received."""
    sqs = boto3.client("sqs", region_name="us-east-1", endpoint_url=aws)
    events = boto3.client("events", region_name="us-east-1", endpoint_url=aws)
    queue = sqs.create_queue(QueueName="healthlake-events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="healthlake", EventPattern=json.dumps({"source": ["aws.healthlake"]}))
    events.put_targets(Rule="healthlake", Targets=[{"Id": "queue", "Arn": arn}])
    seen: list[dict[str, Any]] = []

    def receive() -> list[dict[str, Any]]:
        messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        seen.extend(json.loads(message["Body"]) for message in messages)
        return seen

    return receive


def output_of(healthlake: HealthLakeEndpoint, job: dict[str, Any]) -> str:
    return f"{healthlake.places.output_uri}{DATASTORE}-FHIR_IMPORT-{job['JobId']}/"


def refused(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response: Any = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_seeded_data_store_has_the_public_address(healthlake: HealthLakeEndpoint) -> None:
    answer = healthlake.client.describe_fhir_datastore(DatastoreId=DATASTORE)["DatastoreProperties"]
    assert (answer["DatastoreName"], answer["DatastoreStatus"]) == ("seeded", "ACTIVE")
    assert answer["DatastoreEndpoint"] == f"https://aws.example.org/datastore/{DATASTORE}/r4/"


def test_a_request_beyond_the_rate_is_throttled_with_400(healthlake: HealthLakeEndpoint) -> None:
    for _ in range(2):
        healthlake.client.list_fhir_datastores()
    with pytest.raises(ClientError) as caught:
        healthlake.client.list_fhir_datastores()
    assert refused(caught) == ("ThrottlingException", 400)


def test_more_waiting_imports_than_allowed_are_refused(healthlake: HealthLakeEndpoint) -> None:
    healthlake.places.faults({"kind": "stuck_in_progress", "times": 1})
    uri = healthlake.places.upload({"a.ndjson": patients(1)})
    first = healthlake.start(uri)
    until(lambda: healthlake.get_job(first), lambda job: job["JobStatus"] == "IN_PROGRESS")
    waiting = [healthlake.start(uri) for _ in range(2)]
    with pytest.raises(ClientError, match="has 2 waiting jobs; 2 are allowed") as caught:
        healthlake.start(uri)
    assert refused(caught) == ("ValidationException", 400)
    healthlake.places.faults()
    for job_id in (first, *waiting):
        healthlake.ended(job_id)
    healthlake.ended(healthlake.start(uri))


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({f"{number}.ndjson": b"{}" for number in range(4)}, "4 files and 3"),
        ({f"{number}.txt": b"x" * 900 for number in range(3)}, "2700 bytes and 2000"),
    ],
)
def test_an_import_beyond_a_limit_fails_without_output(
    healthlake: HealthLakeEndpoint, files: dict[str, bytes], what: str
) -> None:
    job = healthlake.ended(healthlake.start(healthlake.places.upload(files)))
    assert job["JobStatus"] == "FAILED"
    assert what in job["Message"]
    assert healthlake.listed(output_of(healthlake, job)) == []


def test_a_file_and_a_resource_beyond_their_limits_are_customer_errors(healthlake: HealthLakeEndpoint) -> None:
    long = ndjson(patient("long", name=[{"text": "x" * 400}]))
    uri = healthlake.places.upload({"big.ndjson": b"\n" * 1001, "a.ndjson": long + ndjson(patient("short"))})
    job = healthlake.ended(healthlake.start(uri))
    report = job["JobProgressReport"]
    assert (report["TotalNumberOfFilesReadWithCustomerError"], report["TotalNumberOfImportedFiles"]) == (1, 1)
    folder = output_of(healthlake, job)
    failure = healthlake.places.read(f"{folder}FAILURE/a.ndjson") or b""
    assert json.loads(failure) == {
        "lineId": 1,
        "errorMessage": f"The line has {len(long) - 1} bytes, which is too long",
    }


def test_settings_of_the_output_are_kept(healthlake: HealthLakeEndpoint) -> None:
    uri = healthlake.places.upload({"a.ndjson": ndjson(patient("odd", birthDate="19700102"))})
    job = healthlake.ended(healthlake.start(uri, ValidationLevel="minimal"))
    assert job["JobOutputDataConfig"]["S3Configuration"]["S3Uri"] == healthlake.places.output_uri
    assert sorted(healthlake.listed(output_of(healthlake, job))) == [
        "SUCCESS/a.ndjson",
        "SUCCESS_WITH_SEARCH_VALIDATION_FAILURES/a.ndjson",
        "manifest.json",
    ]


def test_structure_only_can_mean_structure_alone(healthlake: HealthLakeEndpoint) -> None:
    uri = healthlake.places.upload({"a.ndjson": ndjson(patient("coded", gender="lady"))})
    assert healthlake.ended(healthlake.start(uri, ValidationLevel="structure-only"))["JobStatus"] == "COMPLETED"
    assert healthlake.ended(healthlake.start(uri))["JobStatus"] == "COMPLETED_WITH_ERRORS"


def test_a_file_of_an_export_is_bounded(healthlake: HealthLakeEndpoint) -> None:
    healthlake.ended(healthlake.start(healthlake.places.upload({"a.ndjson": patients(3)})))
    started = healthlake.client.start_fhir_export_job(
        OutputDataConfig=healthlake.output(), DatastoreId=DATASTORE, DataAccessRoleArn=ROLE
    )
    where = {"DatastoreId": DATASTORE, "JobId": started["JobId"]}
    until(
        lambda: healthlake.client.describe_fhir_export_job(**where)["ExportJobProperties"]["JobStatus"],
        lambda status: status == "COMPLETED",
    )
    folder = f"{healthlake.places.output_uri}{DATASTORE}-FHIR_EXPORT-{started['JobId']}/"
    files = [name for name in healthlake.listed(folder) if name.startswith("Patient/")]
    assert files[:2] == ["Patient/Patient-1.ndjson", "Patient/Patient-2.ndjson"]
    assert all((healthlake.places.read(f"{folder}{name}") or b"").count(b"\n") <= 2 for name in files)


def test_convert_and_ingest_is_not_emulated_and_says_so(healthlake: HealthLakeEndpoint) -> None:
    with pytest.raises(ClientError) as caught:
        healthlake.start(healthlake.places.input_uri, ProfileId="a" * 32, InputFormat="CCDA")
    assert refused(caught) == ("NotImplementedException", 501)


def test_a_prefix_takes_in_what_begins_like_it(healthlake: HealthLakeEndpoint) -> None:
    uri = healthlake.places.upload({"night/a.ndjson": patients(1), "night-2/b.ndjson": patients(1)})
    job = healthlake.ended(healthlake.start(f"{uri}night"))
    assert healthlake.listed(f"{output_of(healthlake, job)}SUCCESS/") == ["night-2/b.ndjson", "night/a.ndjson"]


def test_jobs_are_announced_without_their_status_in_the_detail(
    healthlake: HealthLakeEndpoint, received: Callable[[], list[dict[str, Any]]]
) -> None:
    # On a busy machine the schedule first looks at the job half a second after its submission.
    healthlake.places.faults({"kind": "queued_long", "job_name": "announced", "seconds": 1.5})
    uri = healthlake.places.upload({"a.ndjson": ndjson(patient("p0"), patient("bad", gender="lady"))})
    job = healthlake.ended(healthlake.start(uri, JobName="announced"))
    healthlake.places.faults()

    def of_this_job() -> list[dict[str, Any]]:
        return [event for event in received() if event["detail"].get("jobId") == job["JobId"]]

    events = until(of_this_job, lambda seen: seen and seen[-1]["detail-type"].endswith("Errors"))
    words = ("Submitted", "Queued", "In Progress", "Completed With Errors")
    assert [event["detail-type"] for event in events] == [f"Import Job {word}" for word in words]
    last = events[-1]
    submitted = job["SubmitTime"].isoformat()[11:19][3:]
    assert (last["source"], last["resources"]) == (
        "aws.healthlake",
        [f"arn:aws:healthlake:us-east-1:123456789012:datastore/fhir/{DATASTORE}"],
    )
    assert last["detail"].keys() == {"jobId", "submitTime", "datastoreId", "inputDataConfig"}
    assert last["detail"]["inputDataConfig"] == {"s3Uri": uri}
    assert submitted in last["detail"]["submitTime"]


def test_the_life_of_a_data_store_is_announced(
    healthlake: HealthLakeEndpoint, received: Callable[[], list[dict[str, Any]]]
) -> None:
    datastore_id = healthlake.client.create_fhir_datastore(DatastoreTypeVersion="R4")["DatastoreId"]

    def of_this_store() -> list[str]:
        return [event["detail-type"] for event in received() if event["detail"]["datastoreId"] == datastore_id]

    until(of_this_store, lambda seen: "Data Store Active" in seen)
    healthlake.client.delete_fhir_datastore(DatastoreId=datastore_id)
    events = until(of_this_store, lambda seen: "Data Store Deleted" in seen)
    assert events == [f"Data Store {word}" for word in ("Creating", "Active", "Deleting", "Deleted")]


def test_a_defect_of_a_handler_is_the_service_s_500(
    healthlake: HealthLakeEndpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_self: Datastores, _row: Any) -> Any:
        raise RuntimeError("CANARY")

    monkeypatch.setattr(Datastores, "_properties", broken)
    with pytest.raises(ClientError) as caught:
        healthlake.client.describe_fhir_datastore(DatastoreId=DATASTORE)
    assert refused(caught) == ("InternalServerException", 500)
    assert "DescribeFHIRDatastore broke: RuntimeError" in caplog.text
    assert "CANARY" not in caplog.text


def test_no_key_and_no_part_of_a_resource_is_logged(
    healthlake: HealthLakeEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    odd = patient("CANARY", name=[{"text": "CANARY"}], gender="CANARY")
    with caplog.at_level(logging.DEBUG, logger="localaws"):
        uri = healthlake.places.upload({"CANARY.ndjson": ndjson(odd) + b'{"CANARY', "CANARY.txt": b"CANARY"})
        job = healthlake.ended(healthlake.start(uri))
        failure = healthlake.places.read(f"{output_of(healthlake, job)}FAILURE/CANARY.ndjson") or b""
    ours = [record for record in caplog.records if record.name.startswith(("localaws", "uvicorn"))]
    assert [record for record in ours if "import job" in record.getMessage()]
    assert not [record for record in ours if "CANARY" in record.getMessage()]
    assert "CANARY" not in job["Message"]
    assert b"CANARY" not in failure.replace(b'"resourceId":"CANARY"', b"")
