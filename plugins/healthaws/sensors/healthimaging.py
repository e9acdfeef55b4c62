"""AWS HealthImaging sensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.utils.mixins import aws_template_fields

from healthaws.hooks.healthimaging_import_jobs import DICOM_IMPORT_JOB, HealthImagingDicomImportJobHook
from healthaws.sensors.jobs import JobSensor
from healthaws.triggers.healthimaging import HealthImagingDicomImportJobCompletedTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence


class HealthImagingDicomImportJobSensor(JobSensor[HealthImagingDicomImportJobHook]):
    """
    Wait until a HealthImaging DICOM import job is COMPLETED; fail at once when it is FAILED.

    COMPLETED means that the job ran, not that its files were imported: read the manifest in the output folder.

    Parameters
    ----------
    datastore_id : str
        The data store of the job. (templated)
    **kwargs
        Of :class:`healthaws.sensors.jobs.JobSensor`: the job, and how to wait.
    """

    aws_hook_class = HealthImagingDicomImportJobHook
    job_kind = DICOM_IMPORT_JOB
    template_fields: Sequence[str] = aws_template_fields("datastore_id", "job_id")

    def __init__(self, *, datastore_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.datastore_id = datastore_id

    def describe_job(self) -> dict[str, Any]:
        """Get ``jobProperties`` of GetDICOMImportJob."""
        return self.hook.get_dicom_import_job(self.datastore_id, self.job_id)

    def completed_trigger(self, **settings: Any) -> HealthImagingDicomImportJobCompletedTrigger:
        """Return the trigger that fires when the import has ended."""
        return HealthImagingDicomImportJobCompletedTrigger(
            datastore_id=self.datastore_id, job_id=self.job_id, **settings
        )
