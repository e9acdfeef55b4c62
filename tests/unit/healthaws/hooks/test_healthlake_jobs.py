"""The three kinds of jobs of HealthLake, side by side: most of what their hooks do is one body."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore.stub import Stubber

from healthaws.exceptions import IncompleteReplyError, RequestRejectedError, UnknownOperationError
from healthaws.hooks.healthlake_export_jobs import HealthLakeFhirExportJobHook
from healthaws.hooks.healthlake_import_jobs import HealthLakeFhirImportJobHook
from healthaws.hooks.healthlake_jobs import ACTIVE_JOB_STATUS, TERMINAL_JOB_STATUS, HealthLakeJobHookT
from healthaws.hooks.healthlake_transformation_jobs import HealthLakeDataTransformationJobHook
from tests.unit.healthaws.healthlake import (
    INPUT_CONFIG,
    KMS_KEY,
    OUTPUT_CONFIG,
    PROFILE,
    STORE,
    export_properties,
    import_properties,
    transformation_properties,
)
from tests.unit.healthaws.service import INPUT, JOB, NEXT_JOB, OUTPUT, ROLE

if TYPE_CHECKING:
    from collections.abc import Iterator

Stubbed = tuple[Any, Stubber]  # a hook, and what its client is asked and answers


def stubbed(kind: type[HealthLakeJobHookT]) -> Iterator[Stubbed]:
    hook = kind(aws_conn_id=None, region_name="us-east-1")
    with Stubber(hook.conn) as stub:
        yield hook, stub
        stub.assert_no_pending_responses()


@pytest.fixture
def imports() -> Iterator[Stubbed]:
    yield from stubbed(HealthLakeFhirImportJobHook)


@pytest.fixture
def exports() -> Iterator[Stubbed]:
    yield from stubbed(HealthLakeFhirExportJobHook)


@pytest.fixture
def transformations() -> Iterator[Stubbed]:
    yield from stubbed(HealthLakeDataTransformationJobHook)


class TestStart:
    GIVEN: dict[str, str] = {  # noqa: RUF012 - never changed
        "data_access_role_arn": ROLE,
        "output_s3_uri": OUTPUT,
        "kms_key_id": KMS_KEY,
        "client_token": "token",
    }
    SENT: dict[str, Any] = {"DataAccessRoleArn": ROLE, "ClientToken": "token"}  # noqa: RUF012
    REPLY: dict[str, str] = {"JobId": JOB, "JobStatus": "SUBMITTED"}  # noqa: RUF012

    def test_import_leaves_out_what_is_not_given(self, imports: Stubbed) -> None:
        hook, stub = imports
        sent = {"DatastoreId": STORE, "InputDataConfig": INPUT_CONFIG, "JobOutputDataConfig": OUTPUT_CONFIG}
        stub.add_response("start_fhir_import_job", self.REPLY, {**self.SENT, **sent})
        assert hook.start_fhir_import_job(datastore_id=STORE, input_s3_uri=INPUT, **self.GIVEN) == JOB

    def test_import_sends_name_and_level(self, imports: Stubbed) -> None:
        hook, stub = imports
        sent = {"DatastoreId": STORE, "InputDataConfig": INPUT_CONFIG, "JobOutputDataConfig": OUTPUT_CONFIG}
        optional = {"JobName": "night", "ValidationLevel": "minimal"}
        stub.add_response("start_fhir_import_job", self.REPLY, {**self.SENT, **sent, **optional})
        hook.start_fhir_import_job(
            datastore_id=STORE, input_s3_uri=INPUT, job_name="night", validation_level="minimal", **self.GIVEN
        )

    def test_export(self, exports: Stubbed) -> None:
        hook, stub = exports
        sent = {"DatastoreId": STORE, "OutputDataConfig": OUTPUT_CONFIG, "JobName": "night"}
        stub.add_response("start_fhir_export_job", self.REPLY, {**self.SENT, **sent})
        assert hook.start_fhir_export_job(datastore_id=STORE, job_name="night", **self.GIVEN) == JOB

    def test_data_transformation_sends_what_is_switched_off(self, transformations: Stubbed) -> None:
        hook, stub = transformations
        source = {"S3Uri": INPUT, "SourceFormat": "CCDA"}
        sent = {"ProfileId": PROFILE, "InputDataConfig": source, "OutputDataConfig": OUTPUT_CONFIG}
        switches = {"DriftDetectionEnabled": True, "ProvenanceEnabled": False}
        stub.add_response("start_data_transformation_job", self.REPLY, {**self.SENT, **sent, **switches})
        job_id = hook.start_data_transformation_job(
            profile_id=PROFILE,
            input_s3_uri=INPUT,
            source_format="CCDA",
            drift_detection=True,
            provenance=False,
            **self.GIVEN,
        )
        assert job_id == JOB

    def test_output_needs_a_key(self, exports: Stubbed) -> None:
        hook, _ = exports
        with pytest.raises(RequestRejectedError, match="KMS key in kms_key_id"):
            hook.start_fhir_export_job(datastore_id=STORE, **{**self.GIVEN, "kms_key_id": ""})


class TestDescribe:
    def test_import(self, imports: Stubbed) -> None:
        hook, stub = imports
        reply = {"ImportJobProperties": import_properties("QUEUED")}
        stub.add_response("describe_fhir_import_job", reply, {"DatastoreId": STORE, "JobId": JOB})
        assert hook.describe_fhir_import_job(STORE, JOB) == import_properties("QUEUED")

    def test_export(self, exports: Stubbed) -> None:
        hook, stub = exports
        reply = {"ExportJobProperties": export_properties("QUEUED")}
        stub.add_response("describe_fhir_export_job", reply, {"DatastoreId": STORE, "JobId": JOB})
        assert hook.describe_fhir_export_job(STORE, JOB) == export_properties("QUEUED")

    def test_data_transformation(self, transformations: Stubbed) -> None:
        hook, stub = transformations
        reply = {"TransformationJobProperties": transformation_properties("QUEUED")}
        stub.add_response("describe_data_transformation_job", reply, {"JobId": JOB})
        assert hook.describe_data_transformation_job(JOB) == transformation_properties("QUEUED")

    def test_reply_that_broke_off(self, imports: Stubbed, monkeypatch: pytest.MonkeyPatch) -> None:
        hook, _ = imports
        monkeypatch.setattr(hook.conn, "describe_fhir_import_job", lambda **_: {})
        with pytest.raises(IncompleteReplyError, match=r"DescribeFHIRImportJob broke off: .* no ImportJob"):
            hook.describe_fhir_import_job(STORE, JOB)

    def test_operation_that_the_installed_botocore_does_not_know(
        self, transformations: Stubbed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hook, _ = transformations
        monkeypatch.delattr(type(hook.conn), "describe_data_transformation_job")
        with pytest.raises(UnknownOperationError, match=r"botocore \d+.* DescribeDataTransformationJob.*newer boto3"):
            hook.describe_data_transformation_job(JOB)


class TestListing:
    def test_goes_on_where_boto_cannot_page(self, imports: Stubbed) -> None:
        hook, stub = imports
        assert not hook.conn.can_paginate("list_fhir_import_jobs")
        first, second = import_properties("COMPLETED"), import_properties("QUEUED", NEXT_JOB)
        asked = {"DatastoreId": STORE, "JobStatus": "QUEUED"}
        stub.add_response("list_fhir_import_jobs", {"ImportJobPropertiesList": [first], "NextToken": "t"}, asked)
        stub.add_response(
            "list_fhir_import_jobs", {"ImportJobPropertiesList": []} | {"NextToken": "u"}, asked | {"NextToken": "t"}
        )
        stub.add_response("list_fhir_import_jobs", {"ImportJobPropertiesList": [second]}, asked | {"NextToken": "u"})
        assert list(hook.list_fhir_import_jobs(STORE, JobStatus="QUEUED")) == [first, second]

    def test_exports(self, exports: Stubbed) -> None:
        hook, stub = exports
        job = export_properties("COMPLETED")
        stub.add_response("list_fhir_export_jobs", {"ExportJobPropertiesList": [job]}, {"DatastoreId": STORE})
        assert list(hook.list_fhir_export_jobs(STORE)) == [job]

    def test_data_transformations(self, transformations: Stubbed) -> None:
        hook, stub = transformations
        job = {"JobId": JOB, "JobStatus": "COMPLETED", "SubmitTime": 0}
        stub.add_response("list_data_transformation_jobs", {"Items": [job]}, {"JobName": "night"})
        assert list(hook.list_data_transformation_jobs(JobName="night")) == [job]


class TestFindJob:
    def found(self, imports: Stubbed, *jobs: dict[str, Any]) -> dict[str, Any] | None:
        hook, stub = imports
        asked = {"DatastoreId": STORE, "JobName": "night"}
        stub.add_response("list_fhir_import_jobs", {"ImportJobPropertiesList": list(jobs)}, asked)
        return hook.find_job(STORE, "night")

    def test_takes_the_latest_with_exactly_this_name(self, imports: Stubbed) -> None:
        def job(name: str, hour: int) -> dict[str, Any]:
            return import_properties("COMPLETED", JobName=name, SubmitTime=datetime(2026, 11, 1, hour, tzinfo=UTC))

        found = self.found(imports, job("night", 1), job("night", 3), job("night", 2), job("night-2", 4))
        assert found == job("night", 3)

    def test_may_find_none(self, imports: Stubbed) -> None:
        assert self.found(imports, import_properties("COMPLETED")) is None


def test_profile_version_is_the_one_published_last(transformations: Stubbed) -> None:
    hook, stub = transformations
    reply = {
        "ProfileId": PROFILE,
        "Version": 3,
        "SourceFormat": "CCDA",
        "TargetFormat": "FHIR_R4",
        "ProfileName": "night",
        "ProfileMapping": {},
        "LastUpdatedAt": 0,
    }
    stub.add_response("get_data_transformation_profile", reply, {"ProfileId": PROFILE})
    assert hook.profile_version(PROFILE) == 3


class TestOutputFolder:
    IMPORT = f"s3://out/a/{STORE}-FHIR_IMPORT-{JOB}/"
    EXPORT = f"s3://out/a/{STORE}-FHIR_EXPORT-{JOB}/"
    TRANSFORMATION = f"s3://out/a/{JOB}/"

    @pytest.mark.parametrize("form", ["s3://out/a", "s3://out/a/", "folder", "folder/"])
    def test_is_the_same_whether_or_not_describe_has_expanded_it(self, form: str) -> None:
        def output(folder: str) -> dict[str, Any]:
            uri = form.replace("folder", folder.rstrip("/"))
            return {"S3Configuration": {"S3Uri": uri, "KmsKeyId": KMS_KEY}}

        job = import_properties("COMPLETED", JobOutputDataConfig=output(self.IMPORT))
        assert HealthLakeFhirImportJobHook.output_folder(job) == self.IMPORT
        job = export_properties("COMPLETED", OutputDataConfig=output(self.EXPORT))
        assert HealthLakeFhirExportJobHook.output_folder(job) == self.EXPORT
        job = transformation_properties("COMPLETED", OutputDataConfig=output(self.TRANSFORMATION))
        assert HealthLakeDataTransformationJobHook.output_folder(job) == self.TRANSFORMATION

    def test_in_a_bare_bucket_and_below_the_folder_of_another_job(self) -> None:
        bare = {"S3Configuration": {"S3Uri": "s3://out", "KmsKeyId": KMS_KEY}}
        nested = {"S3Configuration": {"S3Uri": f"s3://out/{STORE}-FHIR_IMPORT-{NEXT_JOB}/", "KmsKeyId": KMS_KEY}}
        own, folder_of = f"{STORE}-FHIR_IMPORT-{JOB}/", HealthLakeFhirImportJobHook.output_folder
        assert folder_of(import_properties("COMPLETED", JobOutputDataConfig=bare)) == f"s3://out/{own}"
        assert folder_of(import_properties("COMPLETED", JobOutputDataConfig=nested)) == (
            f"s3://out/{STORE}-FHIR_IMPORT-{NEXT_JOB}/{own}"
        )

    def test_of_properties_that_name_none(self) -> None:
        properties = import_properties("FAILED")
        del properties["JobOutputDataConfig"]
        with pytest.raises(IncompleteReplyError, match=f"{JOB} name no output"):
            HealthLakeFhirImportJobHook.output_folder(properties)


def test_a_status_is_active_or_terminal(imports: Stubbed) -> None:
    hook, _ = imports
    statuses = set(hook.conn.meta.service_model.shape_for("JobStatus").enum)
    assert statuses == ACTIVE_JOB_STATUS | TERMINAL_JOB_STATUS
    assert not ACTIVE_JOB_STATUS & TERMINAL_JOB_STATUS
