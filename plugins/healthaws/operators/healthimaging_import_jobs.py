"""AWS HealthImaging operators: DICOM import jobs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.utils.mixins import aws_template_fields

from healthaws.hooks.healthimaging_import_jobs import DICOM_IMPORT_JOB, HealthImagingDicomImportJobHook
from healthaws.links.healthimaging import HealthImagingDicomImportJobLink
from healthaws.operators.jobs import StartJobOperator
from healthaws.triggers.healthimaging import HealthImagingDicomImportJobCompletedTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

JOB_KEY = "healthimaging_dicom_import_job"


class HealthImagingStartDicomImportJobOperator(StartJobOperator[HealthImagingDicomImportJobHook]):
    """
    Import DICOM files from S3 into a HealthImaging data store.

    One piece of work starts one job, even if the task is killed or cleared; see
    :class:`healthaws.operators.jobs.StartJobOperator`.

    Returns the job id. COMPLETED means that the job ran, not that its files were imported: read the manifest in
    :meth:`HealthImagingDicomImportJobHook.output_folder`.

    Parameters
    ----------
    datastore_id : str
        The data store to import into. (templated)
    data_access_role_arn : str
        Role that the service assumes to read the input and to write the output. (templated)
    input_s3_uri : str
        Prefix to import, with everything below it. (templated)
    output_s3_uri : str
        Prefix below which the service makes a folder for the job's results. (templated)
    input_owner_account_id : str, optional
        Account that owns the input bucket; needed across accounts. (templated)
    **kwargs
        Of :class:`healthaws.operators.jobs.StartJobOperator`: how to name, count, await and remember the job.
    """

    aws_hook_class = HealthImagingDicomImportJobHook
    job_kind = DICOM_IMPORT_JOB
    job_key = JOB_KEY
    job_link = HealthImagingDicomImportJobLink
    illegal_in_job_name = re.compile(r"[^A-Za-z0-9._/#-]+")
    template_fields: Sequence[str] = aws_template_fields(
        "datastore_id",
        "data_access_role_arn",
        "input_s3_uri",
        "output_s3_uri",
        "job_name",
        "input_owner_account_id",
        "idempotency_key",
        "generation",
    )
    operator_extra_links = (HealthImagingDicomImportJobLink(),)

    def __init__(
        self,
        *,
        datastore_id: str,
        data_access_role_arn: str,
        input_s3_uri: str,
        output_s3_uri: str,
        input_owner_account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.datastore_id = datastore_id
        self.data_access_role_arn = data_access_role_arn
        self.input_s3_uri = input_s3_uri
        self.output_s3_uri = output_s3_uri
        self.input_owner_account_id = input_owner_account_id

    def start_job(self, client_token: str, job_name: str) -> str:
        """Start the import; see :meth:`HealthImagingDicomImportJobHook.start_dicom_import_job`."""
        return self.hook.start_dicom_import_job(
            datastore_id=self.datastore_id,
            data_access_role_arn=self.data_access_role_arn,
            input_s3_uri=self.input_s3_uri,
            output_s3_uri=self.output_s3_uri,
            client_token=client_token,
            job_name=job_name,
            input_owner_account_id=self.input_owner_account_id,
        )

    def describe_job(self, job_id: str) -> dict[str, Any]:
        """Get ``jobProperties`` of GetDICOMImportJob."""
        return self.hook.get_dicom_import_job(self.datastore_id, job_id)

    def find_job(self, job_name: str) -> dict[str, Any] | None:
        """Find the import by its name; see :meth:`HealthImagingDicomImportJobHook.find_job`."""
        return self.hook.find_job(self.datastore_id, job_name)

    @property
    def identity(self) -> dict[str, Any]:
        """The data store and the input prefix."""
        return {"datastoreId": self.datastore_id, "inputS3Uri": self.input_s3_uri}

    @property
    def parameters(self) -> dict[str, Any]:
        """The role."""
        return {"dataAccessRoleArn": self.data_access_role_arn}

    def completed_trigger(self, job_id: str, **settings: Any) -> HealthImagingDicomImportJobCompletedTrigger:
        """Return the trigger that fires when the import has ended."""
        return HealthImagingDicomImportJobCompletedTrigger(datastore_id=self.datastore_id, job_id=job_id, **settings)
