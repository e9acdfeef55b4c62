"""The base of triggers that wait for the end of a job."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.triggers.base import AwsBaseWaiterTrigger
from airflow.providers.amazon.aws.utils.waiter_with_logging import async_wait
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import TriggerEvent
from botocore.exceptions import WaiterError

from healthaws.refusals import Backoff, Refusals, is_busy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from healthaws.jobs import JobKind


class JobCompletedTrigger(AwsBaseWaiterTrigger):
    """
    Base of triggers that fire when a job has ended.

    The event is ``{"status": "success", "job_id": ...}`` for COMPLETED, else ``{"status": "error", "message": ...,
    "job_id": ...}``: for any other end, an unknown status, a rejected request, or if all attempts are used up.
    Throttled and quota-refused polls pause and use up no attempt, so pass ``timeout`` to ``defer``.

    Parameters
    ----------
    job_id : str
        The job.
    queued_max_attempts : int
        Polls of a queued job before giving up; only for a :attr:`job_kind` with a queue. (default: 0)
    **kwargs
        Of the amazon provider's base class.
    """

    aws_hook_class = AwsBaseHook
    job_kind: ClassVar[JobKind]
    # The waiter for the end of a job's time in the queue; empty for a service without a queue.
    begun_waiter: ClassVar[str] = ""

    def __init__(self, *, job_id: str, queued_max_attempts: int = 0, **kwargs: Any) -> None:
        super().__init__(
            failure_message=f"Waiting for {self.job_kind.name} {job_id} failed",
            status_message=f"Status of {self.job_kind.name} {job_id}",
            return_key="job_id",
            return_value=job_id,
            **kwargs,
        )
        self.queued_attempts = queued_max_attempts

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait as the base class does, but pause while the service refuses polls."""
        hook = self.hook()
        async with await hook.get_async_conn() as client:  # type: ignore[no-untyped-call]
            try:
                for waiter_name, attempts in self._waits():
                    await self._wait(hook.get_waiter(waiter_name, deferrable=True, client=client), attempts)
            except AirflowException as error:
                yield self._event_from_exception(error)
            else:
                yield TriggerEvent({"status": "success", "job_id": self.return_value})  # type: ignore[no-untyped-call]

    def _waits(self) -> list[tuple[str, int]]:
        queue = [(self.begun_waiter, self.queued_attempts)] if self.begun_waiter else []
        return [*queue, (self.waiter_name, self.attempts)]

    async def _wait(self, waiter: Any, attempts: int) -> None:
        await async_wait(
            _PatientWaiter(waiter, Backoff(initial=self.waiter_delay, maximum=20 * self.waiter_delay)),
            self.waiter_delay,
            attempts,
            self.waiter_args,
            self.failure_message,
            self.status_message,
            self.status_queries,
        )

    async def on_kill(self) -> None:
        """Log that the job goes on: the service cannot cancel it. Airflow calls this if a person ends the task."""
        self.log.warning(
            "The task was ended while it waited for %s %s. %s cannot cancel jobs: the job goes on, and clearing the "
            "task reconnects to it.",
            self.job_kind.name,
            self.return_value,
            self.job_kind.service,
        )


class _PatientWaiter:
    """A waiter that pauses after a refused poll; ``async_wait`` would take a quota refusal for the job's end."""

    def __init__(self, waiter: Any, backoff: Backoff) -> None:
        self._waiter = waiter
        self._backoff = backoff

    async def wait(self, **kwargs: Any) -> None:
        refusals = Refusals()
        while True:
            try:
                await self._waiter.wait(**kwargs)
            except WaiterError as error:
                if not is_busy(error.last_response):
                    raise
                refusals = refusals.one_more()
            else:
                return
            await asyncio.sleep(self._backoff.delay(refusals.count))
