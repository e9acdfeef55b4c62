"""The base of sensors that wait for the end of a job that another task or system has started."""

from __future__ import annotations

import math
from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.amazon.aws.sensors.base_aws import AwsBaseSensor
from airflow.providers.amazon.aws.utils import validate_execute_complete_event
from airflow.providers.amazon.aws.utils.mixins import AwsHookType
from airflow.providers.common.compat.sdk import conf
from botocore.exceptions import ClientError

from healthaws.exceptions import (
    JobCancelledError,
    JobCompletedWithErrorsError,
    JobFinallyFailedError,
    JobUnfinishedError,
    UnknownJobStatusError,
    fail_without_retry,
)
from healthaws.jobs import CANCELLED, COMPLETED, COMPLETED_WITH_ERRORS, FAILED, JobKind, JobReport
from healthaws.refusals import is_busy, rejection

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger


class JobSensor(AwsBaseSensor[AwsHookType]):
    """
    Base of sensors that wait until a job is COMPLETED, and fail at once when it has ended otherwise.

    Not to be used in DAGs directly. Give a deferrable sensor ``retries`` of 2 or more: Airflow may fail a task whose
    trigger fires soon after the deferral.

    Parameters
    ----------
    job_id : str
        The job. (templated)
    deferrable : bool
        Whether to wait in the triggerer; needs aiobotocore. (default: ``[operators] default_deferrable``)
    poke_interval : float
        Seconds between polls. (default: 30)
    **kwargs
        Of the amazon provider's sensors (``aws_conn_id``, ``region_name``, ``verify``, ``botocore_config``) and of
        :class:`airflow.sdk.BaseSensorOperator`, such as ``timeout`` in seconds and ``mode``.
    """

    job_kind: ClassVar[JobKind]
    ui_color = "#66c3ff"

    def __init__(
        self,
        *,
        job_id: str,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: float = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.job_id = job_id
        self.deferrable = deferrable

    @abstractmethod
    def describe_job(self) -> dict[str, Any]:
        """Return the properties of the job."""

    @abstractmethod
    def completed_trigger(self, **settings: Any) -> BaseTrigger:
        """
        Return the trigger that fires when the job has ended.

        Parameters
        ----------
        **settings
            The settings that all such triggers take: how often to poll, and the connection.
        """

    def execute(self, context: Context) -> None:
        """
        Wait in the worker, or defer unless the job has already ended.

        Parameters
        ----------
        context : Context
            The task's context.
        """
        if not self.deferrable:
            super().execute(context)
        elif not self.poke(context):
            self._defer()

    def poke(self, context: Context) -> bool:  # noqa: ARG002 - the signature is the base class's
        """
        Ask once whether the job is COMPLETED; a throttled request counts as "not yet".

        Parameters
        ----------
        context : Context
            The task's context.

        Raises
        ------
        JobFinallyFailedError
            If the job is FAILED.
        JobCancelledError
            If the job was cancelled.
        JobCompletedWithErrorsError
            If part of the input was refused.
        UnknownJobStatusError
            If the service reports an unknown status.
        AirflowFailException
            If the service rejects the request.
        """
        report = self._report()
        status = report.status if report else "not known, the service is busy"
        self.log.info("Status of %s %s: %s", self.job_kind.name, self.job_id, status)
        return report is not None and not report.active and self.is_done(report)

    def is_done(self, report: JobReport) -> bool:
        """
        Return whether a job has succeeded; raise if it has not.

        Parameters
        ----------
        report : JobReport
            The service's report on a job that has ended.
        """
        if report.status not in self.job_kind.statuses:
            raise UnknownJobStatusError.of(report)
        if report.status == FAILED:
            raise JobFinallyFailedError.of(report)
        if report.status == COMPLETED_WITH_ERRORS:
            raise JobCompletedWithErrorsError.of(report)
        if report.status in CANCELLED:
            raise JobCancelledError.of(report)
        return report.status == COMPLETED

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> None:
        """
        End the task after the trigger has fired.

        Parameters
        ----------
        context : Context
            The task's context.
        event : dict
            The trigger's event.

        Raises
        ------
        JobUnfinishedError
            If waiting ended before the job did; for other errors see :meth:`poke`.
        """
        event = validate_execute_complete_event(event)
        if event["status"] != "success" and not self.poke(context):
            job = JobReport(self.job_kind, self.job_id, "unfinished", None, getattr(self, "datastore_id", None), {})
            raise JobUnfinishedError.of(job, event["message"])

    def _report(self) -> JobReport | None:
        with fail_without_retry():
            try:
                return self.job_kind.report(self.describe_job())
            except ClientError as error:
                if is_busy(error.response):
                    return None
                if rejected := rejection(error):
                    raise rejected from None
                raise

    def _defer(self) -> None:
        delay = max(1, int(self.poke_interval))
        attempts = math.ceil(self.timeout / delay) + 1
        queue = {"queued_max_attempts": attempts} if self.job_kind.queued else {}
        self.defer(
            trigger=self.completed_trigger(
                **queue,
                waiter_delay=delay,
                waiter_max_attempts=attempts,
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
                verify=self.verify,
                botocore_config=self.botocore_config,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )
