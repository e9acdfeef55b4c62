"""AWS HealthLake sensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from typing_extensions import override

from healthaws.hooks.healthlake_import_jobs import FHIR_IMPORT_JOB, HealthLakeFhirImportJobHook
from healthaws.hooks.healthlake_jobs import HealthLakeJobHookT
from healthaws.hooks.healthlake_transformation_jobs import DATA_TRANSFORMATION_JOB, HealthLakeDataTransformationJobHook
from healthaws.jobs import COMPLETED_WITH_ERRORS
from healthaws.sensors.jobs import JobSensor
from healthaws.triggers.healthlake import (
    HealthLakeDataTransformationJobCompletedTrigger,
    HealthLakeFhirImportJobCompletedTrigger,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from healthaws.jobs import JobReport


class HealthLakeJobSensor(JobSensor[HealthLakeJobHookT]):
    """
    Base of sensors that wait for a HealthLake job.

    Not to be used in DAGs directly. The sensor waits for a QUEUED job as for a running one, both within ``timeout``.

    Parameters
    ----------
    completed_with_errors : {"fail", "return"}
        The end of the task if the job is COMPLETED_WITH_ERRORS, which means that part of the input was refused: the
        task fails, or it succeeds and the next tasks must check the status. (default: "fail")
    **kwargs
        Of :class:`healthaws.sensors.jobs.JobSensor`: the job, and how to wait.
    """

    def __init__(self, *, completed_with_errors: Literal["fail", "return"] = "fail", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if completed_with_errors not in ("fail", "return"):
            raise ValueError(f'completed_with_errors must be "fail" or "return", not {completed_with_errors!r}')
        self.completed_with_errors = completed_with_errors

    @override
    def is_done(self, report: JobReport) -> bool:
        if report.status == COMPLETED_WITH_ERRORS and self.completed_with_errors == "return":
            return True
        return super().is_done(report)


class HealthLakeFhirImportJobSensor(HealthLakeJobSensor[HealthLakeFhirImportJobHook]):
    """
    Wait until a FHIR import job is COMPLETED; fail at once when it has ended otherwise.

    COMPLETED means that the job ran, not that its resources were imported: read the manifest in the output folder.

    Parameters
    ----------
    datastore_id : str
        The data store of the job. (templated)
    **kwargs
        Of :class:`HealthLakeJobSensor`: the job, how to wait, and the end after errors.
    """

    aws_hook_class = HealthLakeFhirImportJobHook
    job_kind = FHIR_IMPORT_JOB
    template_fields: Sequence[str] = aws_template_fields("datastore_id", "job_id")

    def __init__(self, *, datastore_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.datastore_id = datastore_id

    def describe_job(self) -> dict[str, Any]:
        """Get ``ImportJobProperties`` of DescribeFHIRImportJob."""
        return self.hook.describe_fhir_import_job(self.datastore_id, self.job_id)

    def completed_trigger(self, **settings: Any) -> HealthLakeFhirImportJobCompletedTrigger:
        """Return the trigger that fires when the import has ended."""
        return HealthLakeFhirImportJobCompletedTrigger(datastore_id=self.datastore_id, job_id=self.job_id, **settings)


class HealthLakeDataTransformationJobSensor(HealthLakeJobSensor[HealthLakeDataTransformationJobHook]):
    """
    Wait until a data transformation job is COMPLETED; fail at once when it has ended otherwise.

    Its parameters are those of :class:`HealthLakeJobSensor`.
    """

    aws_hook_class = HealthLakeDataTransformationJobHook
    job_kind = DATA_TRANSFORMATION_JOB
    template_fields: Sequence[str] = aws_template_fields("job_id")

    def describe_job(self) -> dict[str, Any]:
        """Get ``TransformationJobProperties`` of DescribeDataTransformationJob."""
        return self.hook.describe_data_transformation_job(self.job_id)

    def completed_trigger(self, **settings: Any) -> HealthLakeDataTransformationJobCompletedTrigger:
        """Return the trigger that fires when the conversion has ended."""
        return HealthLakeDataTransformationJobCompletedTrigger(job_id=self.job_id, **settings)
