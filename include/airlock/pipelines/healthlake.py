"""The HealthLake data store of a pipeline, and how released studies are written as FHIR."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from airlock.pipelines.buckets import KmsKey
from airlock.pipelines.parts import ROLE_ARN, check_timezone
from airlock.pipelines.patient_match import PatientMatch
from airlock.pipelines.settings import Prefix, Settings


class HealthLake(Settings):
    """The data store and its import jobs."""

    datastore_id: str = Field(pattern=r"^[0-9a-z]{32}$", description="32 characters")
    data_access_role_arn: str = Field(pattern=ROLE_ARN, description="role that HealthLake assumes, see iam/")
    output_uri: Prefix = Field(description="s3://bucket/prefix/ for the jobs' manifests")
    kms_key_id: KmsKey | None = Field(
        None,
        description="key of what HealthLake's jobs write, which write nothing without one; by default that of the "
        "bucket of output_uri in buckets",
    )
    aws_conn_id: str = Field("aws_default", description="Airflow connection for HealthLake")
    region_name: str | None = Field(None, description="AWS region; by default the connection's")
    pool: str = Field(
        "healthlake_import", description="Airflow pool; an AWS account runs one import at a time and queues the others"
    )
    poll_seconds: int = Field(30, ge=1, description="time between two checks of a job")
    job_timeout_minutes: float = Field(
        24 * 60, gt=0, description="maximum wait per attempt for a running job; a retry reconnects to the same job"
    )
    queued_timeout_minutes: float = Field(7 * 24 * 60, gt=0, description="maximum wait per attempt for a queued job")
    backoff_seconds: float = Field(
        30, gt=0, description="first pause after throttling or a quota refusal; it doubles each time"
    )
    max_generations: int = Field(
        3, ge=1, description="most jobs started for one batch; the next one starts only after FAILED"
    )
    files_per_job: int = Field(10_000, ge=1, description="most files in one batch (AWS's pages: 10,000 or 1,000,000)")
    bytes_per_job: int = Field(100 * 1000**3, ge=1, description="most bytes in one batch (AWS: 5,000 GB)")
    bytes_per_file: int = Field(
        16 * 1024**2, ge=1, description="most bytes in one import file, unless one resource has more (AWS: 50 GB)"
    )
    most_reads_by_id: int = Field(
        10_000,
        ge=0,
        description="most resources of a batch that audit reads one by one if the job's result lines name "
        "none; a larger batch is held",
    )


class Publish(Settings):
    """How a released study is written as FHIR."""

    issuer_systems: dict[str, str] = Field(
        {}, description="Identifier.system by IssuerOfPatientID, if the hospital has URIs of its own"
    )
    timezone: Annotated[str, AfterValidator(check_timezone)] | None = Field(
        None,
        description="time zone of StudyTime where no header has TimezoneOffsetFromUTC, an IANA name; without both "
        "ImagingStudy.started is only a date",
    )
    service_requests: bool = Field(
        False,
        description="publish a ServiceRequest stub for each AccessionNumber; not with patient_match, which links the "
        "orders that are there",
    )
    resource_bytes: int = Field(
        10 * 1024**2,
        ge=1,
        description="largest ImagingStudy; a larger one leaves out the instances of its largest series",
    )
    dicomweb_region: str | None = Field(
        None,
        description="AWS region in the Endpoint's DICOMweb address; must be the HealthImaging data store's region",
    )
    patient_match: PatientMatch | None = Field(
        None,
        description="rules by which the Patient of a study is found in HealthLake, see below; without it each identity "
        "gets a Patient of Airlock's own",
    )

    @model_validator(mode="after")
    def _require_known_systems(self) -> Publish:
        if self.patient_match is not None:
            self.patient_match.check_systems(frozenset(self.issuer_systems.values()))
            if self.service_requests:
                raise ValueError(
                    "service_requests would make orders beside those that patient_match links: set it to false, or "
                    "remove patient_match"
                )
        return self
