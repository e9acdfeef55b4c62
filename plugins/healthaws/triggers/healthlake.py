"""AWS HealthLake triggers."""

from __future__ import annotations

from typing import Any, ClassVar

from healthaws.hooks.healthlake import HealthLakeHook
from healthaws.hooks.healthlake_export_jobs import FHIR_EXPORT_JOB
from healthaws.hooks.healthlake_import_jobs import FHIR_IMPORT_JOB
from healthaws.hooks.healthlake_transformation_jobs import DATA_TRANSFORMATION_JOB
from healthaws.triggers.jobs import JobCompletedTrigger


class HealthLakeJobCompletedTrigger(JobCompletedTrigger):
    """
    Base of triggers that fire when a HealthLake job has ended.

    A job is first queued and then runs; polls of both states are counted separately.

    Parameters
    ----------
    job_id : str
        The job.
    datastore_id : str, optional
        The data store of the job, if it has one.
    queued_max_attempts : int
        Polls of a queued job before giving up. (default: 2880, which is 24 hours)
    waiter_delay : int
        Seconds between polls. (default: 30)
    waiter_max_attempts : int
        Polls of a running job before giving up. (default: 480)
    **kwargs
        The connection: ``aws_conn_id``, ``region_name``, ``verify``, ``botocore_config``.
    """

    aws_hook_class = HealthLakeHook
    waiter: ClassVar[str]
    properties: ClassVar[str]

    def __init__(
        self,
        *,
        job_id: str,
        datastore_id: str | None = None,
        queued_max_attempts: int = 2880,
        waiter_delay: int = 30,
        waiter_max_attempts: int = 480,
        **kwargs: Any,
    ) -> None:
        where = {"datastore_id": datastore_id} if datastore_id else {}
        super().__init__(
            job_id=job_id,
            queued_max_attempts=queued_max_attempts,
            serialized_fields={**where, "job_id": job_id, "queued_max_attempts": queued_max_attempts},
            waiter_name=f"{self.waiter}_complete",
            waiter_args={"JobId": job_id, **({"DatastoreId": datastore_id} if datastore_id else {})},
            status_queries=[f"{self.properties}.JobStatus"],
            waiter_delay=waiter_delay,
            waiter_max_attempts=waiter_max_attempts,
            **kwargs,
        )


class HealthLakeFhirImportJobCompletedTrigger(HealthLakeJobCompletedTrigger):
    """Trigger when a FHIR import job has ended; see :class:`HealthLakeJobCompletedTrigger`."""

    job_kind = FHIR_IMPORT_JOB
    waiter = "fhir_import_job"
    begun_waiter = "fhir_import_job_begun"
    properties = "ImportJobProperties"


class HealthLakeFhirExportJobCompletedTrigger(HealthLakeJobCompletedTrigger):
    """Trigger when a FHIR export job has ended; see :class:`HealthLakeJobCompletedTrigger`."""

    job_kind = FHIR_EXPORT_JOB
    waiter = "fhir_export_job"
    begun_waiter = "fhir_export_job_begun"
    properties = "ExportJobProperties"


class HealthLakeDataTransformationJobCompletedTrigger(HealthLakeJobCompletedTrigger):
    """Trigger when a data transformation job has ended; see :class:`HealthLakeJobCompletedTrigger`."""

    job_kind = DATA_TRANSFORMATION_JOB
    waiter = "data_transformation_job"
    begun_waiter = "data_transformation_job_begun"
    properties = "TransformationJobProperties"
