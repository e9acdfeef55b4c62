"""AWS HealthLake operators: the base of those that start a job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from healthaws.hooks.healthlake_jobs import HealthLakeJobHookT
from healthaws.links.healthlake import HealthLakeConsoleLink
from healthaws.operators.jobs import StartJobOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from healthaws.jobs import JobReport
    from healthaws.triggers.healthlake import HealthLakeJobCompletedTrigger

JOB_TEMPLATE_FIELDS = (
    "data_access_role_arn",
    "output_s3_uri",
    "kms_key_id",
    "job_name",
    "idempotency_key",
    "generation",
)


class HealthLakeStartJobOperator(StartJobOperator[HealthLakeJobHookT]):
    """
    Base of operators that start a HealthLake job and wait for it.

    Not to be used in DAGs directly; see :class:`healthaws.operators.jobs.StartJobOperator`.

    HealthLake runs few jobs at a time, and imports one by one. Later jobs are QUEUED, for hours if the first is large:
    ``queued_timeout`` limits that time, and ``waiter_max_attempts`` the polls from IN_PROGRESS on.

    Parameters
    ----------
    data_access_role_arn : str
        Role that the service assumes to read the input and to write the output. (templated)
    output_s3_uri : str
        Prefix below which the service makes a folder for the job's results. (templated)
    kms_key_id : str
        Key with which the service encrypts the results; it needs one. (templated)
    completed_with_errors : {"fail", "return"}
        The end of the task if the job is COMPLETED_WITH_ERRORS, which means that part of the input was refused: the
        task fails, or it returns the result of :meth:`complete`, whose status the next tasks must check.
        (default: "fail")
    queued_timeout : float
        How long a job may be queued before the try gives up, in seconds. (default: 86400)
    **kwargs
        Of :class:`healthaws.operators.jobs.StartJobOperator`: how to name, count, await and remember the job.
    """

    job_link = HealthLakeConsoleLink
    trigger_class: ClassVar[type[HealthLakeJobCompletedTrigger]]
    illegal_in_job_name = re.compile(r"[^\w .:/=+%@-]+")
    operator_extra_links = (HealthLakeConsoleLink(),)

    def __init__(
        self,
        *,
        data_access_role_arn: str,
        output_s3_uri: str,
        kms_key_id: str,
        completed_with_errors: Literal["fail", "return"] = "fail",
        queued_timeout: float = 24 * 60 * 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(queued_timeout=queued_timeout, **kwargs)
        if completed_with_errors not in ("fail", "return"):
            raise ValueError(f'completed_with_errors must be "fail" or "return", not {completed_with_errors!r}')
        self.data_access_role_arn = data_access_role_arn
        self.output_s3_uri = output_s3_uri
        self.kms_key_id = kms_key_id
        self.completed_with_errors = completed_with_errors

    @override
    def complete(self, context: Context, properties: dict[str, Any]) -> Any:
        return {"job_id": properties["JobId"], "status": properties["JobStatus"]}

    @override
    def job_completed_with_errors(self, context: Context, properties: dict[str, Any]) -> Any:
        if self.completed_with_errors == "return":
            return self.complete(context, properties)
        return super().job_completed_with_errors(context, properties)

    @property
    def parameters(self) -> dict[str, Any]:
        """The role and the key."""
        key = f"{self.aws_hook_class.output_member}.S3Configuration.KmsKeyId"
        return {"DataAccessRoleArn": self.data_access_role_arn, key: self.kms_key_id}

    def completed_trigger(self, job_id: str, **settings: Any) -> HealthLakeJobCompletedTrigger:
        """Return the trigger that fires when the job has ended."""
        store = {"datastore_id": self.datastore_id} if hasattr(self, "datastore_id") else {}
        return self.trigger_class(job_id=job_id, **store, **settings)

    def _end_task(self, context: Context, report: JobReport, waited: str) -> Any:
        if progress := report.properties.get("JobProgressReport"):
            self.log.info("Progress of %s: %s", report.subject, progress)
        return super()._end_task(context, report, waited)
