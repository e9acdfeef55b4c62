"""AWS HealthImaging triggers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.triggers.base import AwsBaseWaiterTrigger
from airflow.providers.amazon.aws.utils.waiter_with_logging import async_wait
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import TriggerEvent
from botocore.exceptions import WaiterError

from healthaws.hooks.healthimaging import HealthImagingHook
from healthaws.refusals import Backoff, Refusals, is_busy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class HealthImagingDicomImportJobCompletedTrigger(AwsBaseWaiterTrigger):
    """
    Trigger when a HealthImaging DICOM import job has ended.

    The event is ``{"status": "success", "job_id": ...}`` for COMPLETED, else ``{"status": "error", "message": ...,
    "job_id": ...}``: for FAILED, for an unknown status, for a rejected request, and when the attempts are used up.
    Throttled and quota-refused polls back off and use up no attempt, so pass ``timeout`` to ``defer``.

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
    aws_conn_id : str, optional
        The Airflow connection used for AWS credentials.
    region_name : str, optional
        AWS region; without it that of the connection, or boto3's default.
    verify : bool or str, optional
        Whether to verify SSL certificates, or the path of a CA bundle.
    botocore_config : dict, optional
        Configuration of the botocore client.
    """

    aws_hook_class = HealthImagingHook

    def __init__(
        self,
        *,
        datastore_id: str,
        job_id: str,
        waiter_delay: int = 30,
        waiter_max_attempts: int = 480,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            serialized_fields={"datastore_id": datastore_id, "job_id": job_id},
            waiter_name="dicom_import_job_complete",
            waiter_args={"datastoreId": datastore_id, "jobId": job_id},
            failure_message=f"Waiting for DICOM import job {job_id} failed",
            status_message=f"Status of DICOM import job {job_id}",
            status_queries=["jobProperties.jobStatus"],
            return_key="job_id",
            return_value=job_id,
            waiter_delay=waiter_delay,
            waiter_max_attempts=waiter_max_attempts,
            aws_conn_id=aws_conn_id,
            region_name=region_name,
            verify=verify,
            botocore_config=botocore_config,
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait as the base class does, but back off while the service refuses to be asked."""
        hook = self.hook()
        backoff = Backoff(initial=self.waiter_delay, maximum=20 * self.waiter_delay)
        async with await hook.get_async_conn() as client:  # type: ignore[no-untyped-call]
            waiter = hook.get_waiter(self.waiter_name, deferrable=True, client=client)
            try:
                await async_wait(
                    _PatientWaiter(waiter, backoff),
                    self.waiter_delay,
                    self.attempts,
                    self.waiter_args,
                    self.failure_message,
                    self.status_message,
                    self.status_queries,
                )
            except AirflowException as error:
                yield self._event_from_exception(error)
            else:
                yield TriggerEvent({"status": "success", "job_id": self.return_value})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Leave a trace: the service cannot cancel an import. Airflow calls this when a person ends the task."""
        self.log.warning(
            "The task was ended while it waited for DICOM import job %s. HealthImaging has no cancel: the job goes on, "
            "and clearing the task reconnects to it.",
            self.return_value,
        )


class _PatientWaiter:
    """A waiter that answers a refused poll with a pause; ``async_wait`` would take a quota refusal for the end."""

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
