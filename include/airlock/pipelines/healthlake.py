"""How FHIR goes into a HealthLake data store: the store, and how released studies are written as FHIR."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from airlock.pipelines.parts import ROLE_ARN, check_timezone
from airlock.pipelines.settings import Prefix, Settings


class HealthLake(Settings):
    """The data store and how import jobs are run against it."""

    datastore_id: str = Field(pattern=r"^[0-9a-z]{32}$", description="32 characters")
    data_access_role_arn: str = Field(pattern=ROLE_ARN, description="role that HealthLake assumes, see iam/")
    output_uri: Prefix = Field(description="s3://bucket/prefix/ for the jobs' manifests")
    kms_key_id: str = Field(
        min_length=1, max_length=400, description="key for the manifests: HealthLake writes no output without one"
    )
    aws_conn_id: str = Field("aws_default", description="Airflow connection for HealthLake")
    region_name: str | None = Field(None, description="AWS region; without it that of the connection")
    pool: str = Field("healthlake_import", description="Airflow pool; an account runs one import, more of them queue")
    poll_seconds: int = Field(30, ge=1, description="between two looks at a job")
    job_timeout_minutes: float = Field(
        24 * 60, gt=0, description="how long a try waits for a running job; the next one reconnects"
    )
    queued_timeout_minutes: float = Field(
        7 * 24 * 60, gt=0, description="how long a try waits for a queued job, which does not count as running"
    )
    backoff_seconds: float = Field(30, gt=0, description="first pause after throttling or a quota refusal; it doubles")
    max_generations: int = Field(3, ge=1, description="jobs started for one batch when they end FAILED")
    files_per_job: int = Field(10_000, ge=1, description="most files in one batch (AWS's pages: 10,000 or 1,000,000)")
    bytes_per_job: int = Field(100 * 1000**3, ge=1, description="most bytes in one batch (AWS: 5,000 GB)")
    bytes_per_file: int = Field(
        16 * 1024**2, ge=1, description="most bytes in one import file, unless one resource has more (AWS: 50 GB)"
    )
    most_reads_by_id: int = Field(
        10_000,
        ge=0,
        description="most resources of a batch that audit reads one by one where the job's result lines name none; "
        "a larger batch is held",
    )


class Publish(Settings):
    """How a released study is written as FHIR."""

    issuer_systems: dict[str, str] = Field(
        {}, description="Identifier.system by IssuerOfPatientID, where the hospital has URIs of its own"
    )
    timezone: Annotated[str, AfterValidator(check_timezone)] | None = Field(
        None, description="of StudyTime, an IANA name; without it ImagingStudy.started is a date: FHIR has no bare time"
    )
    service_requests: bool = Field(False, description="a ServiceRequest stub for each AccessionNumber")
    resource_bytes: int = Field(
        10 * 1024**2, ge=1, description="a larger ImagingStudy leaves out the instances of its largest series"
    )
    dicomweb_region: str | None = Field(
        None,
        description="AWS region in the Endpoint's DICOMweb address, which is that of the HealthImaging data store; "
        "another one is refused",
    )
