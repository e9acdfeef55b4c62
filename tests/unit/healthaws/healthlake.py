"""HealthLake's side of the tests: ids, replies, and scripts of what its jobs are asked and answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from healthaws.jobs import ImportJob
from healthaws.operators.healthlake_export_jobs import HealthLakeStartFhirExportJobOperator
from healthaws.operators.healthlake_import_jobs import HealthLakeStartFhirImportJobOperator
from healthaws.operators.healthlake_transformation_jobs import HealthLakeStartDataTransformationJobOperator
from tests.unit.healthaws.script import KEY, BaseScript
from tests.unit.healthaws.service import HTTP_STATUS, INPUT, JOB, OUTPUT, ROLE

if TYPE_CHECKING:
    from collections.abc import Callable

STORE = "5" * 32
PROFILE = "9" * 32
KMS_KEY = "arn:aws:kms:us-east-1:123456789012:key/k-1"
INPUT_CONFIG = {"S3Uri": INPUT}
OUTPUT_CONFIG = {"S3Configuration": {"S3Uri": OUTPUT, "KmsKeyId": KMS_KEY}}
ENDED_BADLY = ("COMPLETED_WITH_ERRORS", "FAILED", "CANCEL_COMPLETED", "CANCEL_FAILED")


def import_properties(status: str, job_id: str = JOB, **more: Any) -> dict[str, Any]:
    return {
        "JobId": job_id,
        "JobStatus": status,
        "SubmitTime": 0,
        "DatastoreId": STORE,
        "InputDataConfig": INPUT_CONFIG,
        "JobOutputDataConfig": OUTPUT_CONFIG,
        **more,
    }


def export_properties(status: str, job_id: str = JOB, **more: Any) -> dict[str, Any]:
    return {
        "JobId": job_id,
        "JobStatus": status,
        "SubmitTime": 0,
        "DatastoreId": STORE,
        "OutputDataConfig": OUTPUT_CONFIG,
        **more,
    }


def transformation_properties(status: str, job_id: str = JOB, **more: Any) -> dict[str, Any]:
    return {
        "JobId": job_id,
        "JobStatus": status,
        "SubmitTime": 0,
        "InputDataConfig": INPUT_CONFIG,
        "OutputDataConfig": OUTPUT_CONFIG,
        "DataAccessRoleArn": ROLE,
        **more,
    }


GIVEN: dict[str, Any] = {
    "task_id": "import",
    "data_access_role_arn": ROLE,
    "output_s3_uri": OUTPUT,
    "kms_key_id": KMS_KEY,
    "idempotency_key": KEY,
    "deferrable": True,
    "waiter_delay": 0,
    "aws_conn_id": None,
    "region_name": "us-east-1",
}


def import_operator(**more: Any) -> HealthLakeStartFhirImportJobOperator:
    given = {**GIVEN, "datastore_id": STORE, "input_s3_uri": INPUT, "validation_level": "structure-only"}
    return HealthLakeStartFhirImportJobOperator(**given | more)


def export_operator(**more: Any) -> HealthLakeStartFhirExportJobOperator:
    return HealthLakeStartFhirExportJobOperator(**{**GIVEN, "datastore_id": STORE} | more)


def transformation_operator(**more: Any) -> HealthLakeStartDataTransformationJobOperator:
    given = {**GIVEN, "profile_id": PROFILE, "input_s3_uri": INPUT}
    return HealthLakeStartDataTransformationJobOperator(**given | more)


@dataclass(frozen=True)
class Jobs:
    """One kind of job: how it is asked for, and where its properties are."""

    operation: str
    member: str
    where: dict[str, Any]
    request: dict[str, Any]
    properties: Callable[..., dict[str, Any]]


IMPORTS = Jobs(
    "fhir_import_job",
    "ImportJobProperties",
    {"DatastoreId": STORE},
    {
        "DatastoreId": STORE,
        "DataAccessRoleArn": ROLE,
        "InputDataConfig": INPUT_CONFIG,
        "JobOutputDataConfig": OUTPUT_CONFIG,
        "ValidationLevel": "structure-only",
    },
    import_properties,
)
EXPORTS = Jobs(
    "fhir_export_job",
    "ExportJobProperties",
    {"DatastoreId": STORE},
    {"DatastoreId": STORE, "DataAccessRoleArn": ROLE, "OutputDataConfig": OUTPUT_CONFIG},
    export_properties,
)
TRANSFORMATIONS = Jobs(
    "data_transformation_job",
    "TransformationJobProperties",
    {},
    {
        "ProfileId": PROFILE,
        "DataAccessRoleArn": ROLE,
        "InputDataConfig": INPUT_CONFIG,
        "OutputDataConfig": OUTPUT_CONFIG,
    },
    transformation_properties,
)


class JobScript(BaseScript):
    """The jobs of one kind: each is started with the same request, but for the token."""

    def __init__(self, task: Any, jobs: Jobs = IMPORTS) -> None:
        super().__init__(task)
        self.jobs = jobs

    def start(self, answer: str = JOB, *, generation: int = 0, text: str = "because", **more: Any) -> JobScript:
        job = ImportJob(KEY, generation)
        request = {**self.jobs.request, "ClientToken": job.client_token, "JobName": job.named("dag.import"), **more}
        reply = answer if answer in HTTP_STATUS else {"JobId": answer, "JobStatus": "SUBMITTED"}
        return self.answer(f"start_{self.jobs.operation}", request, reply, text)

    def store(self, status: str) -> JobScript:
        """Add the question what state the data store is in."""
        properties = {
            "DatastoreId": STORE,
            "DatastoreArn": "arn",
            "DatastoreTypeVersion": "R4",
            "DatastoreEndpoint": "e",
        }
        reply = {"DatastoreProperties": properties | {"DatastoreStatus": status}}
        return self.answer("describe_fhir_datastore", {"DatastoreId": STORE}, reply)

    def named(self, name: str | None, **changes: Any) -> JobScript:
        """Add the question for the import with the name; the answer is one of another name, none, or an error."""
        found = [] if name is None else [self.jobs.properties("IN_PROGRESS", JOB, JobName=name, **changes)]
        job, reply = ImportJob(KEY, 0).named("dag.import"), {"ImportJobPropertiesList": found}
        request = {"DatastoreId": STORE, "JobName": job}
        return self.answer("list_fhir_import_jobs", request, name if name in HTTP_STATUS else reply)

    def describe(self, answer: str, job_id: str = JOB, **more: Any) -> JobScript:
        known = {"Message": "why", **more}
        reply = answer if answer in HTTP_STATUS else {self.jobs.member: self.jobs.properties(answer, job_id, **known)}
        return self.answer(f"describe_{self.jobs.operation}", {**self.jobs.where, "JobId": job_id}, reply)
