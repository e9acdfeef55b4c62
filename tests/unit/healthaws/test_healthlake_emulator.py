"""HealthLake's hooks, operators and triggers over HTTP against the emulator, which works on a real S3 server."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from airflow.sdk.exceptions import AirflowFailException
from botocore.exceptions import ConnectionClosedError

from airlock_local.sample.ccda.documents import ccd
from healthaws.exceptions import (
    FhirConflictError,
    JobCancelledError,
    JobCompletedWithErrorsError,
    JobFailedError,
    JobUnfinishedError,
    ProfileVersionError,
    ResourceInvalidError,
)
from healthaws.hooks.healthlake import HealthLakeHook
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from healthaws.operators.healthlake_export_jobs import HealthLakeStartFhirExportJobOperator
from healthaws.operators.healthlake_fhir import HealthLakeValidateResourceOperator
from healthaws.operators.healthlake_import_jobs import HealthLakeStartFhirImportJobOperator
from healthaws.operators.healthlake_transformation_jobs import HealthLakeStartDataTransformationJobOperator
from healthaws.refusals import Backoff
from localaws.server import serve
from localaws.settings import Seed
from tests.servers.moto import moto_server
from tests.unit.healthaws.emulator import ONE_TRY, Emulator, run
from tests.unit.healthaws.healthlake import STORE
from tests.unit.healthaws.service import ROLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

BUCKET = "clinical"
ONE_HOST = {**ONE_TRY, "inject_host_prefix": False}
CONNECTION: dict[str, Any] = {"aws_conn_id": None, "region_name": "us-east-1"}
PATIENT = {"resourceType": "Patient", "id": "p-1", "gender": "female"}
INVALID = {"resourceType": "Patient", "id": "p-2", "gender": "blue", "colour": "blue"}


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with moto_server() as s3_endpoint, pytest.MonkeyPatch.context() as environment:
        s3 = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
        s3.create_bucket(Bucket=BUCKET)
        seeds = (Seed(STORE, "test"),)
        strict = {"reused_transformation_token": "refused"}
        with serve(s3_endpoint=s3_endpoint, healthlake_datastore=seeds, submitted_seconds=0.0, choices=strict) as url:
            environment.setenv("AWS_ENDPOINT_URL_HEALTHLAKE", url)
            yield Emulator(url, s3)


@pytest.fixture
def emulator(running: Emulator) -> Iterator[Emulator]:
    yield running
    running.heal()


@pytest.fixture(scope="module")
def fhir(running: Emulator) -> HealthLakeFhirHook:
    return HealthLakeFhirHook(STORE, backoff=Backoff(0.01, 0.01), **CONNECTION)


@pytest.fixture(scope="module")
def profile_id(running: Emulator) -> str:
    client = HealthLakeHook(config=ONE_HOST, **CONNECTION).conn
    source = {"StarterProfile": {"StarterProfileName": "ccda-starter-kit-v1"}}
    made = client.create_data_transformation_profile(SourceFormat="CCDA", Source=source, ProfileName="test")
    client.publish_data_transformation_profile(ProfileId=made["ProfileId"], SourceFormat="CCDA")
    return str(made["ProfileId"])


def upload(emulator: Emulator, *resources: dict[str, Any]) -> str:
    folder = uuid.uuid4().hex
    lines = "".join(json.dumps(resource) + "\n" for resource in resources)
    emulator.s3.put_object(Bucket=BUCKET, Key=f"{folder}/in/Patient.ndjson", Body=lines.encode())
    return f"s3://{BUCKET}/{folder}/in/"


def given(input_uri: str, **more: Any) -> dict[str, Any]:
    return {
        "task_id": "import",
        "data_access_role_arn": ROLE,
        "output_s3_uri": input_uri.removesuffix("in/") + "out/",
        "kms_key_id": "alias/results",
        "deferrable": True,
        "waiter_delay": 1,
        "backoff_initial_delay": 0.1,
        "botocore_config": ONE_HOST,
        **CONNECTION,
        **more,
    }


def importer(emulator: Emulator, *resources: dict[str, Any], **more: Any) -> HealthLakeStartFhirImportJobOperator:
    uri = upload(emulator, *resources)
    return HealthLakeStartFhirImportJobOperator(datastore_id=STORE, input_s3_uri=uri, **given(uri, **more))


def again(task: HealthLakeStartFhirImportJobOperator) -> HealthLakeStartFhirImportJobOperator:
    """The same task, in its next try."""
    return HealthLakeStartFhirImportJobOperator(
        datastore_id=STORE, input_s3_uri=task.input_s3_uri, **given(task.input_s3_uri)
    )


def read_json(emulator: Emulator, uri: str) -> Any:
    place = urlsplit(uri)
    return json.load(emulator.s3.get_object(Bucket=place.netloc, Key=place.path[1:])["Body"])


class TestImport:
    @pytest.mark.parametrize("deferrable", [True, False])
    def test_ends_with_a_manifest_and_a_readable_resource(
        self, deferrable: bool, emulator: Emulator, fhir: HealthLakeFhirHook, context: Context
    ) -> None:
        task = importer(emulator, PATIENT, deferrable=deferrable)
        result = run(task, context)
        assert result["status"] == "COMPLETED"
        folder = task.hook.output_folder(task.hook.describe_fhir_import_job(STORE, result["job_id"]))
        assert read_json(emulator, f"{folder}Manifest.json")["numberOfResourcesImportedSuccessfully"] == 1
        stored = fhir.read("Patient", "p-1")
        assert stored is not None
        assert stored["gender"] == "female"

    def test_with_errors_is_no_success_unless_told_so(self, emulator: Emulator, context: Context) -> None:
        task = importer(emulator, PATIENT, INVALID)
        with pytest.raises(JobCompletedWithErrorsError):
            run(task, context)
        started = emulator.jobs_started()
        task = again(task)
        task.completed_with_errors = "return"
        assert run(task, context)["status"] == "COMPLETED_WITH_ERRORS"
        assert emulator.jobs_started() == started

    def test_lost_answer_to_a_start_makes_no_second_job(self, emulator: Emulator, context: Context) -> None:
        emulator.fault("lost_response", operation="StartFHIRImportJob", times=1, answer="drop")
        started = emulator.jobs_started()
        task = importer(emulator, PATIENT)
        with pytest.raises(ConnectionClosedError):
            run(task, context)
        assert run(again(task), context)["status"] == "COMPLETED"
        assert emulator.jobs_started() == started + 1

    @pytest.mark.parametrize(
        ("kind", "more"),
        [
            ("throttle_storm", {"operation": "*FHIRImportJob", "times": 3}),
            ("quota_storm", {"operation": "*FHIRImportJob", "times": 3}),
            ("role_not_assumable", {"times": 2, "answer": "AccessDeniedException"}),
            ("role_not_assumable", {"times": 2, "answer": "ValidationException"}),
        ],
    )
    def test_refusals_delay_it_only(
        self, kind: str, more: dict[str, Any], emulator: Emulator, context: Context
    ) -> None:
        emulator.fault(kind, **more)
        started = emulator.jobs_started()
        assert run(importer(emulator, PATIENT), context)["status"] == "COMPLETED"
        assert emulator.jobs_started() == started + 1

    def test_failed_is_followed_by_the_next_generation(self, emulator: Emulator, context: Context) -> None:
        emulator.fault("job_failed_without_output", times=1)
        task = importer(emulator, PATIENT)
        with pytest.raises(JobFailedError, match="FAILED"):
            run(task, context)
        assert run(again(task), context)["status"] == "COMPLETED"

    def test_cancelled_is_not_repeated(self, emulator: Emulator, context: Context) -> None:
        emulator.fault("cancelled", times=1)
        task = importer(emulator, PATIENT)
        for task_of_a_try in (task, again(task)):
            with pytest.raises(JobCancelledError, match="CANCEL_COMPLETED"):
                run(task_of_a_try, context)

    def test_queued_for_long_uses_up_none_of_the_running_time(self, emulator: Emulator, context: Context) -> None:
        emulator.fault("queued_long", seconds=2)
        task = importer(emulator, PATIENT, waiter_max_attempts=2)
        assert run(task, context)["status"] == "COMPLETED"

    def test_queued_for_too_long_is_left_to_a_retry(self, emulator: Emulator, context: Context) -> None:
        emulator.fault("queued_long", times=1)
        task = importer(emulator, PATIENT, queued_timeout=1)
        with pytest.raises(JobUnfinishedError, match="QUEUED"):
            run(task, context)
        emulator.heal()
        assert run(again(task), context)["status"] == "COMPLETED"

    def test_into_an_unknown_data_store_fails_at_once(self, emulator: Emulator, context: Context) -> None:
        task = importer(emulator, PATIENT)
        task.datastore_id = "0" * 32
        with pytest.raises(AirflowFailException, match="ResourceNotFoundException"):
            run(task, context)

    def test_whose_answer_was_lost_is_taken_up_with_other_parameters(
        self, emulator: Emulator, context: Context
    ) -> None:
        task, before = importer(emulator, PATIENT), emulator.jobs_started()
        emulator.fault("lost_response", operation="StartFHIRImportJob", times=1, answer="drop")
        with pytest.raises(ConnectionClosedError):
            run(task, context)
        corrected = again(task)
        corrected.data_access_role_arn, corrected.validation_level = f"{ROLE}-corrected", "minimal"
        assert run(corrected, context)["status"] == "COMPLETED"
        assert emulator.jobs_started() == before + 1

    def test_is_found_by_its_name(self, emulator: Emulator, context: Context) -> None:
        task = importer(emulator, PATIENT, job_name="the night of the first")
        job_id = run(task, context)["job_id"]
        (name,) = [job["JobName"] for job in task.hook.list_fhir_import_jobs(STORE) if job["JobId"] == job_id]
        assert name.startswith("the night of the first.")
        found = task.hook.find_job(STORE, name)
        assert found is not None
        assert found["JobId"] == job_id


def test_export_writes_into_its_folder(emulator: Emulator, fhir: HealthLakeFhirHook, context: Context) -> None:
    fhir.update(PATIENT)
    task = HealthLakeStartFhirExportJobOperator(datastore_id=STORE, **given(f"s3://{BUCKET}/export/in/"))
    result = run(task, context)
    folder = urlsplit(task.hook.output_folder(task.hook.describe_fhir_export_job(STORE, result["job_id"])))
    listed = emulator.s3.list_objects_v2(Bucket=BUCKET, Prefix=folder.path[1:])["Contents"]
    assert any("Patient" in item["Key"] for item in listed)


class TestDataTransformation:
    def converter(self, emulator: Emulator, profile_id: str, **more: Any) -> Any:
        folder = uuid.uuid4().hex
        emulator.s3.put_object(Bucket=BUCKET, Key=f"{folder}/in/a.xml", Body=ccd(1))
        uri = f"s3://{BUCKET}/{folder}/in/"
        return HealthLakeStartDataTransformationJobOperator(
            profile_id=profile_id, input_s3_uri=uri, drift_detection=True, **given(uri, **more)
        )

    def test_whose_answer_was_lost_is_taken_up_with_another_role(
        self, profile_id: str, emulator: Emulator, context: Context
    ) -> None:
        task, before = self.converter(emulator, profile_id), emulator.jobs_started()
        emulator.fault("lost_response", operation="StartDataTransformationJob", times=1, answer="drop")
        with pytest.raises(ConnectionClosedError):
            run(task, context)
        task.data_access_role_arn = f"{ROLE}-corrected"
        assert run(task, context)["status"] == "COMPLETED"
        assert emulator.jobs_started() == before + 1

    def test_writes_resources_into_its_folder(self, profile_id: str, emulator: Emulator, context: Context) -> None:
        task = self.converter(emulator, profile_id, profile_version=1)
        result = run(task, context)
        folder = urlsplit(task.hook.output_folder(task.hook.describe_data_transformation_job(result["job_id"])))
        converted = emulator.s3.get_object(Bucket=BUCKET, Key=f"{folder.path[1:]}converted/a.ndjson")["Body"].read()
        assert b'"Patient"' in converted

    def test_by_another_version_of_the_profile_fails(
        self, profile_id: str, emulator: Emulator, context: Context
    ) -> None:
        task = self.converter(emulator, profile_id, profile_version=2)
        assert task.hook.profile_version(profile_id) == 1
        with pytest.raises(ProfileVersionError, match="ran version 1 of"):
            run(task, context)


class TestFhir:
    def test_life_of_a_resource(self, emulator: Emulator, fhir: HealthLakeFhirHook) -> None:
        created = fhir.create({"resourceType": "Patient", "gender": "male"})
        updated = fhir.update({**created, "gender": "other"}, if_match=created["meta"]["versionId"])
        assert (created["meta"]["versionId"], updated["meta"]["versionId"]) == ("1", "2")
        with pytest.raises(FhirConflictError, match="HTTP 412"):
            fhir.update({**created, "gender": "unknown"}, if_match="1")
        first = fhir.read("Patient", created["id"], "1")
        assert first is not None
        assert first["gender"] == "male"
        fhir.delete("Patient", created["id"])
        fhir.delete("Patient", created["id"])
        assert fhir.read("Patient", created["id"]) is None
        assert fhir.read("Patient", "never-there") is None

    @pytest.mark.parametrize("answer", ["drop", "500"])
    def test_lost_answer_to_a_create_makes_no_second_resource(
        self, answer: str, emulator: Emulator, fhir: HealthLakeFhirHook
    ) -> None:
        mark = {"system": "urn:test:lost", "value": answer}
        emulator.fault("lost_response", operation="CreateResource", times=1, answer=answer)
        created = fhir.create({"resourceType": "Patient", "identifier": [mark]})
        found = fhir.search("Patient", {"identifier": f"urn:test:lost|{answer}"})
        assert [patient["id"] for patient in found] == [created["id"]]

    @pytest.mark.parametrize("kind", ["throttle_storm", "quota_storm"])
    def test_storms_are_waited_out(self, kind: str, emulator: Emulator, fhir: HealthLakeFhirHook) -> None:
        emulator.fault(kind, operation="ReadResource", times=3)
        assert fhir.read("Patient", "never-there") is None

    def test_search_goes_on_over_pages(self, emulator: Emulator, fhir: HealthLakeFhirHook) -> None:
        tag = {"system": "urn:test", "code": "paged"}
        ids = {f"paged-{number}" for number in range(7)}
        for name in ids:
            fhir.update({"resourceType": "Patient", "id": name, "meta": {"tag": [tag]}})
        found = [patient["id"] for patient in fhir.search("Patient", {"_tag": "urn:test|paged", "_count": 3})]
        assert len(found) == 7
        assert set(found) == ids

    def test_batch(self, emulator: Emulator, fhir: HealthLakeFhirHook) -> None:
        entry = {"resource": {**PATIENT, "id": "batched"}, "request": {"method": "PUT", "url": "Patient/batched"}}
        answer = fhir.bundle({"resourceType": "Bundle", "type": "batch", "entry": [entry]})
        assert answer["entry"][0]["response"]["status"].startswith("201")

    def test_asynchronous_transaction(self, emulator: Emulator, fhir: HealthLakeFhirHook) -> None:
        entry = {"resource": {**PATIENT, "id": "later"}, "request": {"method": "PUT", "url": "Patient/later"}}
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
        answer = fhir.bundle(bundle, asynchronous=True, poll_delay=0.05, timeout=30)
        assert answer["type"] == "transaction-response"
        assert fhir.read("Patient", "later") is not None


class TestValidate:
    def operator(self, resource: dict[str, Any]) -> HealthLakeValidateResourceOperator:
        return HealthLakeValidateResourceOperator(
            task_id="validate", datastore_id=STORE, resource=resource, mode="create", **CONNECTION
        )

    def test_valid_resource(self, emulator: Emulator, context: Context) -> None:
        assert self.operator(PATIENT).execute(context)["valid"] is True

    def test_invalid_resource(self, emulator: Emulator, context: Context) -> None:
        with pytest.raises(ResourceInvalidError, match=r"The Patient does not conform: .* at Patient") as caught:
            self.operator(INVALID).execute(context)
        assert "blue" not in str(caught.value)
