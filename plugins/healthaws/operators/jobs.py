"""The base of operators that start a job, wait for it and end as the job ends."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.amazon.aws.utils import validate_execute_complete_event
from airflow.providers.common.compat.sdk import conf

from healthaws.exceptions import (
    JobCancelledError,
    JobCompletedWithErrorsError,
    JobFailedError,
    JobFinallyFailedError,
    JobUnfinishedError,
    UnknownJobStatusError,
)
from healthaws.hooks.jobs import JobHookT
from healthaws.jobs import COMPLETED, COMPLETED_WITH_ERRORS, FAILED, JobReport
from healthaws.operators.starts import StartOnceOperator

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.amazon.aws.links.base_aws import BaseAwsLink
    from airflow.sdk import Context
    from airflow.triggers.base import BaseTrigger


class StartJobOperator(StartOnceOperator[JobHookT]):
    """
    Base of operators that start a job and wait for it.

    Not to be used in DAGs directly.

    One piece of work starts one job; see :class:`healthaws.operators.starts.StartOnceOperator`.

    The task waits out throttling and quota refusals with growing pauses, in the triggerer if ``deferrable``, without
    using up its retries. Validation, access and not-found errors fail the task at once.

    Give a deferrable task ``retries`` of 2 or more: Airflow may fail a task whose trigger fires soon after the
    deferral, and the next try reconnects.

    Parameters
    ----------
    wait_for_completion : bool
        Whether to wait for the job; if False, the task ends once the job is started. (default: True)
    deferrable : bool
        Whether to wait in the triggerer. This includes waiting for completion, and needs aiobotocore.
        (default: ``[operators] default_deferrable``)
    waiter_delay : int
        Seconds between polls. (default: 30)
    waiter_max_attempts : int
        Polls of a running job before the try gives up; the next one reconnects. (default: 480)
    queued_timeout : float
        How long a job may be queued before the try gives up, in seconds, in addition to the polls above. Jobs of a
        service without a queue are never queued. (default: 0)
    **kwargs
        Of :class:`healthaws.operators.starts.StartOnceOperator`: how to name, count and remember the job.

    Notes
    -----
    A subclass may return another result (:meth:`complete`), or return a result for a bad end (:meth:`job_failed`,
    :meth:`job_completed_with_errors`, :meth:`job_cancelled`).
    """

    job_link: ClassVar[type[BaseAwsLink]]
    ui_color = "#66c3ff"

    def __init__(
        self,
        *,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        waiter_delay: int = 30,
        waiter_max_attempts: int = 480,
        queued_timeout: float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(deferrable=deferrable, **kwargs)
        self.wait_for_completion = wait_for_completion
        self.waiter_delay = waiter_delay
        self.waiter_max_attempts = waiter_max_attempts
        self.queued_timeout = queued_timeout
        self._job_id: str | None = None

    @abstractmethod
    def completed_trigger(self, job_id: str, **settings: Any) -> BaseTrigger:
        """
        Return the trigger that fires when the job has ended.

        Parameters
        ----------
        job_id : str
            The job.
        **settings
            The settings that all such triggers take: how often to poll, and the connection.
        """

    def execute(self, context: Context) -> Any:
        """
        Reconnect to the job or start it, and wait for it as configured.

        Parameters
        ----------
        context : Context
            The task's context.

        Returns
        -------
        Any
            The result of :meth:`complete`; the job id if the task does not wait.

        Raises
        ------
        JobFailedError
            If the job is FAILED; a retry starts the next generation.
        JobFinallyFailedError
            If the job is FAILED and ``max_generations`` are used up.
        JobCancelledError
            If the job was cancelled.
        JobCompletedWithErrorsError
            If part of the input was refused.
        JobUnfinishedError
            If ``waiter_max_attempts`` or ``queued_timeout`` are used up.
        UnknownJobStatusError
            If the service reports an unknown status.
        AirflowFailException
            If the service rejects a request for its content or missing access.
        ServiceBusyError
            If throttling or quota refusals last longer than ``backoff_timeout``.
        """
        return self.take_up(context)

    def take_up(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        Start as :meth:`execute` does; Airflow resumes here after a pause.

        Parameters
        ----------
        context : Context
            The task's context.
        event : dict, optional
            The event of the pause.
        """
        job_id, report = self.ask_patiently(partial(self._reconnect_or_start, context), "take_up", event or {})
        self._persist_link(context, job_id)
        if report and not report.active:
            return self._end_task(context, report, waited="")
        if self.deferrable:
            self._defer_until_complete(job_id)
        if self.wait_for_completion:
            return self._end_task(context, *self._wait(job_id))
        return job_id

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        Ask for the job's end after the trigger has fired; Airflow resumes here after a refusal, too.

        Parameters
        ----------
        context : Context
            The task's context.
        event : dict
            The trigger's event, which only wakes the task: the service is asked for the job's end.
        """
        event = validate_execute_complete_event(event)
        report = self.ask_patiently(partial(self._report, event["job_id"]), "execute_complete", event)
        return self._end_task(context, report, waited=event.get("message", "the trigger ended early"))

    def complete(self, context: Context, properties: dict[str, Any]) -> Any:  # noqa: ARG002 - for subclasses
        """
        Return the task's result for a job that is COMPLETED.

        Parameters
        ----------
        context : Context
            The task's context.
        properties : dict
            The job's properties.

        Returns
        -------
        Any
            The value for XCom; here the job id.
        """
        return self.job_kind.report(properties).job_id

    def job_failed(self, context: Context, properties: dict[str, Any]) -> Any:
        """
        Fail the task because its job FAILED; without a retry if no further job may be started.

        Parameters
        ----------
        context : Context
            The task's context.
        properties : dict
            The job's properties.

        Returns
        -------
        Any
            A subclass may return a result instead of raising.
        """
        report = self.job_kind.report(properties)
        job = self.load_job(context)
        if job is None or not self._is_last(job):
            raise JobFailedError.of(report)
        # No retry follows. A person who clears the task later gets one more job, of this generation.
        self.save_job(context, job.next())
        raise JobFinallyFailedError.of(
            report,
            f"It was generation {job.generation}, the last that retries may start. "
            "Fix the cause, and clear the task to start one more job.",
        )

    def job_completed_with_errors(self, context: Context, properties: dict[str, Any]) -> Any:  # noqa: ARG002
        """
        Fail the task because part of the job's input was refused.

        Parameters
        ----------
        context : Context
            The task's context.
        properties : dict
            The job's properties.

        Returns
        -------
        Any
            A subclass may return a result instead of raising.
        """
        raise JobCompletedWithErrorsError.of(
            self.job_kind.report(properties),
            "The output folder lists the refused input. Correct it, and raise generation for a new job.",
        )

    def job_cancelled(self, context: Context, properties: dict[str, Any]) -> Any:  # noqa: ARG002
        """
        Fail the task because the job was cancelled.

        Parameters
        ----------
        context : Context
            The task's context.
        properties : dict
            The job's properties.

        Returns
        -------
        Any
            A subclass may return a result instead of raising.
        """
        raise JobCancelledError.of(
            self.job_kind.report(properties), "No retry starts another. Raise generation for a new job."
        )

    def on_kill(self) -> None:
        """Log that the job goes on: the service cannot cancel it."""
        if self._job_id:
            self.log.warning(
                "The task was killed. %s cannot cancel jobs: %s %s goes on, and the next try reconnects to it.",
                self.job_kind.service,
                self.job_kind.name,
                self._job_id,
            )

    def _persist_link(self, context: Context, job_id: str) -> None:
        self._job_id = job_id
        self.job_link.persist(
            context=context,
            operator=self,
            region_name=self.hook.conn_region_name,
            aws_partition=self.hook.conn_partition,
            datastore_id=getattr(self, "datastore_id", None),
            job_id=job_id,
        )

    def _queued_polls(self) -> int:
        return math.ceil(self.queued_timeout / max(1, self.waiter_delay))

    def _defer_until_complete(self, job_id: str) -> None:
        queue = {"queued_max_attempts": self._queued_polls()} if self.job_kind.queued else {}
        self.defer(
            trigger=self.completed_trigger(
                job_id,
                **queue,
                waiter_delay=self.waiter_delay,
                waiter_max_attempts=self.waiter_max_attempts,
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
                verify=self.verify,
                botocore_config=self.botocore_config,
            ),
            method_name="execute_complete",
            # Refused polls use up no attempt, so the time for them is added.
            timeout=timedelta(
                seconds=self.waiter_delay * self.waiter_max_attempts + self.queued_timeout + self.backoff.timeout
            ),
        )

    def _wait(self, job_id: str) -> tuple[JobReport, str]:
        """Poll in the worker, and return the last report, with the reason why waiting ended."""
        polls_left = {True: self._queued_polls(), False: self.waiter_max_attempts}
        while True:
            report = self.ask_patiently(partial(self._report, job_id), "execute_complete", {})
            if not report.active:
                return report, ""
            queued = report.status in self.job_kind.queued
            polls_left[queued] -= 1
            if polls_left[queued] <= 0:
                return (
                    report,
                    "queued_timeout has passed" if queued else f"{self.waiter_max_attempts} polls are used up",
                )
            self.log.info("Status of %s: %s", report.subject, report.status)
            time.sleep(self.waiter_delay)

    def _end_task(self, context: Context, report: JobReport, waited: str) -> Any:
        self.log.info("%s is %s", report.subject, report.status)
        if report.active:
            raise JobUnfinishedError.of(report, waited)
        if report.status not in self.job_kind.statuses:
            raise UnknownJobStatusError.of(report)
        ends: dict[str, Callable[[Context, dict[str, Any]], Any]] = {
            COMPLETED: self.complete,
            COMPLETED_WITH_ERRORS: self.job_completed_with_errors,
            FAILED: self.job_failed,
        }
        return ends.get(report.status, self.job_cancelled)(context, report.properties)
