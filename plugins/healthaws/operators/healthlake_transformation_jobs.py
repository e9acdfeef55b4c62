"""AWS HealthLake operators: data transformation jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.amazon.aws.utils.mixins import aws_template_fields

from healthaws.exceptions import ProfileVersionError
from healthaws.hooks.healthlake_transformation_jobs import DATA_TRANSFORMATION_JOB, HealthLakeDataTransformationJobHook
from healthaws.jobs import COMPLETED, COMPLETED_WITH_ERRORS
from healthaws.operators.healthlake_jobs import JOB_TEMPLATE_FIELDS, HealthLakeStartJobOperator
from healthaws.triggers.healthlake import HealthLakeDataTransformationJobCompletedTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from healthaws.jobs import JobReport


class HealthLakeStartDataTransformationJobOperator(HealthLakeStartJobOperator[HealthLakeDataTransformationJobHook]):
    """
    Convert C-CDA documents or CSV files on S3 to FHIR resources on S3, with HealthLake's data transformation agent.

    The service is in preview. A job runs the latest published version of its profile; a request cannot choose one. Set
    ``profile_version`` to the version that was reviewed: the task fails if the job ran another, with any status.

    Returns ``{"job_id": ..., "status": ...}``. The output is not validated: add a strict import or ``$validate``, and a
    review by a person.

    Parameters
    ----------
    profile_id : str
        The data transformation profile. (templated)
    input_s3_uri : str
        Prefix to convert, not a bare bucket. (templated)
    profile_version : int or str, optional
        The version of the profile that the job must run. (templated)
    source_format : {"CCDA", "CSV"}, optional
        The format of the input. (default: that of the profile)
    drift_detection : bool, optional
        Whether to report input that the profile leaves out. (default: the service's)
    provenance : bool, optional
        Whether to write Provenance resources. (default: the service's)
    **kwargs
        Of :class:`HealthLakeStartJobOperator`: role, output, key, and the end after errors.
    """

    aws_hook_class = HealthLakeDataTransformationJobHook
    job_kind = DATA_TRANSFORMATION_JOB
    job_key = "healthlake_data_transformation_job"
    trigger_class = HealthLakeDataTransformationJobCompletedTrigger
    template_fields: Sequence[str] = aws_template_fields(
        *JOB_TEMPLATE_FIELDS, "profile_id", "profile_version", "input_s3_uri"
    )

    def __init__(
        self,
        *,
        profile_id: str,
        input_s3_uri: str,
        profile_version: int | str | None = None,
        source_format: Literal["CCDA", "CSV"] | None = None,
        drift_detection: bool | None = None,
        provenance: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.profile_id = profile_id
        self.input_s3_uri = input_s3_uri
        self.profile_version = profile_version
        self.source_format = source_format
        self.drift_detection = drift_detection
        self.provenance = provenance

    def start_job(self, client_token: str, job_name: str) -> str:
        """Start the conversion; see :meth:`HealthLakeDataTransformationJobHook.start_data_transformation_job`."""
        return self.hook.start_data_transformation_job(
            profile_id=self.profile_id,
            data_access_role_arn=self.data_access_role_arn,
            input_s3_uri=self.input_s3_uri,
            output_s3_uri=self.output_s3_uri,
            kms_key_id=self.kms_key_id,
            client_token=client_token,
            source_format=self.source_format,
            job_name=job_name,
            drift_detection=self.drift_detection,
            provenance=self.provenance,
        )

    def describe_job(self, job_id: str) -> dict[str, Any]:
        """Get ``TransformationJobProperties`` of DescribeDataTransformationJob."""
        return self.hook.describe_data_transformation_job(job_id)

    @property
    def identity(self) -> dict[str, Any]:
        """The profile and the input prefix."""
        return {"ProfileId": self.profile_id, "InputDataConfig.S3Uri": self.input_s3_uri}

    def find_job(self, job_name: str) -> dict[str, Any] | None:
        """Find the job by its name; see :meth:`HealthLakeDataTransformationJobHook.find_job`."""
        return self.hook.find_job(job_name)

    def _end_task(self, context: Context, report: JobReport, waited: str) -> Any:
        if report.status in (COMPLETED, COMPLETED_WITH_ERRORS):
            self._check_profile_version(report)
        return super()._end_task(context, report, waited)

    def _check_profile_version(self, report: JobReport) -> None:
        ran, wanted = report.properties.get("ProfileVersion"), self.profile_version
        if wanted is not None and str(ran) != str(wanted).strip():
            raise ProfileVersionError(
                f"{report.subject} ran version {ran} of profile {self.profile_id}, not {wanted}. Review that version "
                "and name it in profile_version, or publish the old one again and raise generation for a new job."
            )
