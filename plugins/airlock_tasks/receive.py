"""Receive: wait, in the triggerer, until the delivery is complete."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.utils import validate_execute_complete_event
from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airlock.pipelines import Receive, Source
from airlock_tasks.datastores import check_datastores
from airlock_tasks.notify import check_connections, tell_once
from airlock_tasks.stage import connect_s3, is_plan, redrive_request
from healthaws.triggers.pause import PauseTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow.sdk import Context

    from airlock.pipelines import ClinicalPipeline, ImagingPipeline
    from airlock.stages.receive import Delivery


def look_once(source: Source, prefix: str, settings: Receive) -> Delivery:
    """Look at a delivery once."""
    from airlock.stages.receive import look
    from airlock.storage.s3uri import S3Uri

    return look(connect_s3(source.aws_conn_id), S3Uri.parse(prefix), source, settings, datetime.now(UTC))


class DeliveryCompleteTrigger(BaseTrigger):
    """Fires when a delivery is complete, or when its time is over.

    Parameters
    ----------
    source
        ``Source`` settings as JSON-able values.
    prefix
        ``s3://bucket/prefix/`` of the delivery.
    settings
        ``Receive`` settings as JSON-able values.
    deadline
        When to give up, ISO 8601.
    """

    def __init__(self, *, source: dict[str, Any], prefix: str, settings: dict[str, Any], deadline: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.source = source
        self.prefix = prefix
        self.settings = settings
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes an equal trigger in the triggerer."""
        fields = ("source", "prefix", "settings", "deadline")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in fields}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look at the delivery again and again."""
        source, settings = Source.model_validate(self.source), Receive.model_validate(self.settings)
        while True:
            # Airflow's connections are read in the thread that asgiref makes, which can reach the event loop.
            delivery = await sync_to_async(look_once)(source, self.prefix, settings)
            seen = {"objects": delivery.objects, "bytes": delivery.bytes}
            if delivery.complete or datetime.now(UTC) >= datetime.fromisoformat(self.deadline):
                status = "success" if delivery.complete else "timeout"
                event = {"status": status, "message": delivery.waiting_for, **seen}
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
                return
            self.log.info("delivery not complete: waiting for %s", delivery.waiting_for)
            await asyncio.sleep(settings.poll_seconds)


class ReceiveSensor(BaseSensorOperator):
    """Waits until the delivery is complete: a quiet period, a marker object, or a delivery manifest's counts.

    Looks once on the worker and then waits in the triggerer, without a slot.

    Parameters
    ----------
    pipeline
        The pipeline whose source is meant.
    **kwargs
        Of :class:`airflow.sdk.BaseSensorOperator`.
    """

    def __init__(self, *, pipeline: ImagingPipeline | ClinicalPipeline, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline

    def execute(self, context: Context) -> dict[str, int]:
        """Return the number of objects and bytes seen."""
        return self.look(context)

    def look(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, int]:
        """Look at the data stores and the delivery; the pause for a data store that is being changed resumes here."""
        from airlock.run import PrefixOutsideSourceError, source_prefix

        plan_only = is_plan(context)
        if changing := check_datastores(self.pipeline):
            raise self._pause(changing, event)
        check_connections(self.pipeline)
        if redrive_request(self.pipeline, context) is not None:
            return {"objects": 0, "bytes": 0}  # nothing is delivered: buffer takes what was chosen
        source, settings = self.pipeline.source, self.pipeline.receive
        try:
            prefix = str(source_prefix(self.pipeline, context["params"].get("prefix")))
        except PrefixOutsideSourceError as error:
            raise AirflowFailException(str(error)) from None
        delivery = look_once(source, prefix, settings)
        if not delivery.complete:
            self.log.info("delivery not complete: waiting for %s", delivery.waiting_for)
        if delivery.complete or plan_only:  # a plan takes what is there now
            return {"objects": delivery.objects, "bytes": delivery.bytes}
        end = datetime.now(UTC) + timedelta(minutes=settings.timeout_minutes)
        first = settings.late_after_minutes or settings.timeout_minutes
        raise self._wait(prefix, datetime.now(UTC) + timedelta(minutes=first), end)

    def _pause(self, changing: str, event: dict[str, Any] | None) -> TaskDeferred:
        """Return what waits in the triggerer before the data stores are looked at again; fail when time is over."""
        settings, now = self.pipeline.receive, time.time()
        end = event["end"] if event else now + settings.timeout_minutes * 60
        if now >= end:
            raise AirflowFailException(
                f"{changing}, and was so for {settings.timeout_minutes:g} minutes: look at it in the AWS console, cure "
                f"that and clear this task"
            )
        self.log.info("%s: looking again in %g s", changing, settings.poll_seconds)
        return TaskDeferred(trigger=PauseTrigger(now + settings.poll_seconds, {"end": end}), method_name="look")

    def _wait(self, prefix: str, deadline: datetime, end: datetime) -> TaskDeferred:
        """Return what waits in the triggerer until one of the two, of which the second is the delivery's end."""
        trigger = DeliveryCompleteTrigger(
            source=self.pipeline.source.model_dump(mode="json"),
            prefix=prefix,
            settings=self.pipeline.receive.model_dump(mode="json"),
            deadline=deadline.isoformat(),
        )
        after = {"prefix": prefix, "end": end.isoformat()} if deadline < end else {}
        return TaskDeferred(trigger=trigger, method_name="execute_complete", kwargs=after)

    def execute_complete(
        self, context: Context, event: dict[str, Any] | None = None, prefix: str = "", end: str = ""
    ) -> dict[str, int]:
        """Return what was seen, tell of a late delivery and wait on, or fail: one that never completes ends here."""
        event = validate_execute_complete_event(event)
        if event["status"] != "success" and end:
            tell_once(self.pipeline, "late", context, f"Still waiting for {event['message']}.")
            last = datetime.fromisoformat(end)
            raise self._wait(prefix, last, last)
        if event["status"] != "success":
            raise AirflowFailException(
                f"the delivery was not complete after {self.pipeline.receive.timeout_minutes:g} minutes, still waiting "
                f"for {event['message']}: complete it and clear this task, or change the pipeline's receive settings"
            )
        return {"objects": event["objects"], "bytes": event["bytes"]}
