"""AWS HealthLake operators: FHIR export jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from typing_extensions import override

from healthaws.hooks.healthlake_export_jobs import FHIR_EXPORT_JOB, HealthLakeFhirExportJobHook
from healthaws.operators.healthlake_jobs import JOB_TEMPLATE_FIELDS, HealthLakeStartJobOperator
from healthaws.triggers.healthlake import HealthLakeFhirExportJobCompletedTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence


class HealthLakeStartFhirExportJobOperator(HealthLakeStartJobOperator[HealthLakeFhirExportJobHook]):
    """
    Export a HealthLake data store to S3.

    Returns ``{"job_id": ..., "status": ...}``; the files are in :meth:`HealthLakeFhirExportJobHook.output_folder`.

    Parameters
    ----------
    datastore_id : str
        The data store to export. (templated)
    **kwargs
        Of :class:`HealthLakeStartJobOperator`: role, output, key, and the end after errors.
    """

    aws_hook_class = HealthLakeFhirExportJobHook
    job_kind = FHIR_EXPORT_JOB
    job_key = "healthlake_fhir_export_job"
    trigger_class = HealthLakeFhirExportJobCompletedTrigger
    template_fields: Sequence[str] = aws_template_fields(*JOB_TEMPLATE_FIELDS, "datastore_id")

    def __init__(self, *, datastore_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.datastore_id = datastore_id

    @property
    @override
    def work_name(self) -> str:
        return f"{self.datastore_id}|{self.output_s3_uri}"

    def start_job(self, client_token: str, job_name: str) -> str:
        """Start the export; see :meth:`HealthLakeFhirExportJobHook.start_fhir_export_job`."""
        return self.hook.start_fhir_export_job(
            datastore_id=self.datastore_id,
            data_access_role_arn=self.data_access_role_arn,
            output_s3_uri=self.output_s3_uri,
            kms_key_id=self.kms_key_id,
            client_token=client_token,
            job_name=job_name,
        )

    def describe_job(self, job_id: str) -> dict[str, Any]:
        """Get ``ExportJobProperties`` of DescribeFHIRExportJob."""
        return self.hook.describe_fhir_export_job(self.datastore_id, job_id)

    @property
    def identity(self) -> dict[str, Any]:
        """The data store."""
        return {"DatastoreId": self.datastore_id}

    def find_job(self, job_name: str) -> dict[str, Any] | None:
        """Find the job by its name; see :meth:`HealthLakeFhirExportJobHook.find_job`."""
        return self.hook.find_job(self.datastore_id, job_name)
