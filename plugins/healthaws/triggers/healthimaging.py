"""AWS HealthImaging triggers."""

from __future__ import annotations

from typing import Any

from healthaws.hooks.healthimaging import HealthImagingHook
from healthaws.hooks.healthimaging_import_jobs import DICOM_IMPORT_JOB
from healthaws.triggers.jobs import JobCompletedTrigger


class HealthImagingDicomImportJobCompletedTrigger(JobCompletedTrigger):
    """
    Trigger when a HealthImaging DICOM import job has ended.

    Parameters
    ----------
    datastore_id : str
        The data store of the job.
    job_id : str
        The job.
    waiter_delay : int
        Seconds between polls. (default: 30)
    waiter_max_attempts : int
        Polls before giving up. (default: 480)
    **kwargs
        The connection: ``aws_conn_id``, ``region_name``, ``verify``, ``botocore_config``.
    """

    aws_hook_class = HealthImagingHook
    job_kind = DICOM_IMPORT_JOB

    def __init__(
        self,
        *,
        datastore_id: str,
        job_id: str,
        waiter_delay: int = 30,
        waiter_max_attempts: int = 480,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            job_id=job_id,
            serialized_fields={"datastore_id": datastore_id, "job_id": job_id},
            waiter_name="dicom_import_job_complete",
            waiter_args={"datastoreId": datastore_id, "jobId": job_id},
            status_queries=["jobProperties.jobStatus"],
            waiter_delay=waiter_delay,
            waiter_max_attempts=waiter_max_attempts,
            **kwargs,
        )
