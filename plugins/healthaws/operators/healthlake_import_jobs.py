"""AWS HealthLake operators: FHIR import jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.utils.mixins import aws_template_fields

from healthaws.hooks.healthlake_import_jobs import FHIR_IMPORT_JOB, HealthLakeFhirImportJobHook
from healthaws.operators.healthlake_jobs import JOB_TEMPLATE_FIELDS, HealthLakeStartJobOperator
from healthaws.triggers.healthlake import HealthLakeFhirImportJobCompletedTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence


class HealthLakeStartFhirImportJobOperator(HealthLakeStartJobOperator[HealthLakeFhirImportJobHook]):
    """
    Import FHIR resources from S3 into a HealthLake data store.

    Returns ``{"job_id": ..., "status": ...}``. COMPLETED means that the job ran, not that its resources were
    imported: read the manifest in :meth:`HealthLakeFhirImportJobHook.output_folder`. Only the manifest counts the
    resources with server errors.

    Parameters
    ----------
    datastore_id : str
        The data store to import into. (templated)
    input_s3_uri : str
        Prefix to import, with every ``.ndjson`` object below it. (templated)
    validation_level : str, optional
        ``strict`` (the profiles in ``meta.profile``, else base R4), ``structure-only`` (base R4) or ``minimal``
        (stores resources that do not conform, and marks them). (default: the service's, ``strict``) (templated)
    **kwargs
        Of :class:`HealthLakeStartJobOperator`: role, output, key, and the end after errors.
    """

    aws_hook_class = HealthLakeFhirImportJobHook
    job_kind = FHIR_IMPORT_JOB
    job_key = "healthlake_fhir_import_job"
    trigger_class = HealthLakeFhirImportJobCompletedTrigger
    template_fields: Sequence[str] = aws_template_fields(
        *JOB_TEMPLATE_FIELDS, "datastore_id", "input_s3_uri", "validation_level"
    )

    def __init__(
        self, *, datastore_id: str, input_s3_uri: str, validation_level: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.datastore_id = datastore_id
        self.input_s3_uri = input_s3_uri
        self.validation_level = validation_level

    def start_job(self, client_token: str, job_name: str) -> str:
        """Start the import; see :meth:`HealthLakeFhirImportJobHook.start_fhir_import_job`."""
        return self.hook.start_fhir_import_job(
            datastore_id=self.datastore_id,
            data_access_role_arn=self.data_access_role_arn,
            input_s3_uri=self.input_s3_uri,
            output_s3_uri=self.output_s3_uri,
            kms_key_id=self.kms_key_id,
            client_token=client_token,
            job_name=job_name,
            validation_level=self.validation_level,
        )

    def describe_job(self, job_id: str) -> dict[str, Any]:
        """Get ``ImportJobProperties`` of DescribeFHIRImportJob."""
        return self.hook.describe_fhir_import_job(self.datastore_id, job_id)

    @property
    def identity(self) -> dict[str, Any]:
        """The data store and the input prefix."""
        return {"DatastoreId": self.datastore_id, "InputDataConfig.S3Uri": self.input_s3_uri}

    def find_job(self, job_name: str) -> dict[str, Any] | None:
        """Find the job by its name; see :meth:`HealthLakeFhirImportJobHook.find_job`."""
        return self.hook.find_job(self.datastore_id, job_name)

    @property
    def parameters(self) -> dict[str, Any]:
        """Role, key and validation level."""
        return super().parameters | {"ValidationLevel": self.validation_level}
