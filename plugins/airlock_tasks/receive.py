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

from airlock.pipelines import BucketSettings, Receive, Source
from airlock_tasks.datastores import check_datastores, require_known_datastores
from airlock_tasks.notify import check_connections, notify_once
from airlock_tasks.run import connect_s3, is_plan, ledger_url, redrive_request, wave_of
from healthaws.triggers.pause import PauseTrigger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow.sdk import Context

    from airlock.pipelines import ClinicalPipeline, ImagingPipeline
    from airlock.stages.receive import Delivery


def look_at_delivery(
    source: Source, prefix: str, settings: Receive, bucket: BucketSettings, used_marker: str | None = None
) -> Delivery:
    """List a delivery once, and return what is there and what is missing."""
    from airlock.stages.receive import look
    from airlock.storage.s3uri import S3Uri

    used = None if used_marker is None else datetime.fromisoformat(used_marker)
    where = S3Uri.parse(prefix)
    s3 = connect_s3(source.aws_conn_id, {where.bucket: bucket})
    return look(s3, where, source, settings, datetime.now(UTC), used_marker=used)


def find_used_marker(pipeline: ImagingPipeline | ClinicalPipeline, run_id: str, prefix: str) -> str | None:
    """Return when the marker that opened another run's delivery was last modified, in ISO 8601; None without one."""
    from airlock.ledger import Ledger
    from airlock.run import run_key
    from airlock.stages.receive import marker_name
    from airlock.storage.s3uri import S3Uri

    if pipeline.receive.mode != "marker":
        return None
    marker = marker_name(S3Uri.parse(prefix), pipeline.receive)
    with Ledger.open(ledger_url()) as ledger:
        used = ledger.used_marker(pipeline.name, run_key(pipeline.name, run_id), marker)
    return None if used is None else used.isoformat()


def check_known(pipeline: ImagingPipeline | ClinicalPipeline) -> None:
    """Refuse a data store that holds something and that the ledger does not know, before the run claims anything."""
    from airlock.ledger import Ledger

    with Ledger.open(ledger_url()) as ledger:
        require_known_datastores(pipeline, ledger)


class DeliveryCompleteTrigger(BaseTrigger):
    """Fires when a delivery is complete, or at the deadline.

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
    used_marker
        When the marker of the delivery before was last modified, ISO 8601: only a newer one opens this delivery.
    bucket
        ``BucketSettings`` of the source's bucket as JSON-able values.
    """

    def __init__(
        self,
        *,
        source: dict[str, Any],
        prefix: str,
        settings: dict[str, Any],
        deadline: str,
        used_marker: str | None = None,
        bucket: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.source = source
        self.prefix = prefix
        self.settings = settings
        self.deadline = deadline
        self.used_marker = used_marker
        self.bucket = bucket or {}  # that of a trigger of the release before

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        fields = ("source", "prefix", "settings", "deadline", "used_marker", "bucket")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in fields}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the delivery is complete or the deadline has passed."""
        source, settings = Source.model_validate(self.source), Receive.model_validate(self.settings)
        asked = source, self.prefix, settings, BucketSettings.model_validate(self.bucket), self.used_marker
        while True:
            # Airflow reads connections in this thread of asgiref's, which can reach the event loop.
            delivery = await sync_to_async(look_at_delivery)(*asked)
            seen = {"objects": delivery.objects, "bytes": delivery.bytes}
            if delivery.complete or datetime.now(UTC) >= datetime.fromisoformat(self.deadline):
                status = "success" if delivery.complete else "timeout"
                event = {"status": status, "message": delivery.waiting_for, **seen}
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
                return
            self.log.info("The delivery is not complete. Waiting for %s.", delivery.waiting_for)
            await asyncio.sleep(settings.poll_seconds)


class ReceiveSensor(BaseSensorOperator):
    """Waits until the delivery is complete, by a quiet period, a marker object or the counts of a delivery manifest.

    Looks once on the worker and then waits in the triggerer, without a slot.

    Parameters
    ----------
    pipeline
        The pipeline whose delivery to wait for.
    **kwargs
        Of :class:`airflow.sdk.BaseSensorOperator`.
    """

    def __init__(self, *, pipeline: ImagingPipeline | ClinicalPipeline, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline

    def execute(self, context: Context) -> dict[str, int]:
        """Return how many objects and bytes the delivery has."""
        return self.look(context)

    def look(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, int]:
        """Check the data stores and the delivery; Airflow resumes here after a pause for a data store."""
        from airlock.run import PrefixOutsideSourceError, source_prefix

        plan_only = is_plan(context)
        if changing := check_datastores(self.pipeline):
            raise self._pause(changing, event)
        check_connections(self.pipeline)
        if not plan_only:
            check_known(self.pipeline)
        if redrive_request(self.pipeline, context) is not None or wave_of(context) is not None:
            return {"objects": 0, "bytes": 0}  # nothing to wait for: buffer claims settled arrivals, or a wave
        source, settings = self.pipeline.source, self.pipeline.receive
        try:
            prefix = str(source_prefix(self.pipeline, context["params"].get("prefix")))
        except PrefixOutsideSourceError as error:
            raise AirflowFailException(str(error)) from None
        used_marker = None if plan_only else find_used_marker(self.pipeline, str(context["run_id"]), prefix)
        delivery = look_at_delivery(source, prefix, settings, self.pipeline.find_settings(prefix), used_marker)
        if not delivery.complete:
            self.log.info("The delivery is not complete. Waiting for %s.", delivery.waiting_for)
        if delivery.complete or plan_only:  # a plan takes the objects that are there now
            return {"objects": delivery.objects, "bytes": delivery.bytes}
        end = datetime.now(UTC) + timedelta(minutes=settings.timeout_minutes)
        first = settings.late_after_minutes or settings.timeout_minutes
        raise self._wait(prefix, datetime.now(UTC) + timedelta(minutes=first), end, used_marker)

    def _pause(self, changing: str, event: dict[str, Any] | None) -> TaskDeferred:
        """Return a deferral until the next check of the data stores; fail if the timeout has passed."""
        settings, now = self.pipeline.receive, time.time()
        end = event["end"] if event else now + settings.timeout_minutes * 60
        if now >= end:
            raise AirflowFailException(
                f"{changing}, for {settings.timeout_minutes:g} minutes now. Check it in the AWS console, fix it, and "
                f"clear this task."
            )
        self.log.info("%s. Checking again in %g s.", changing, settings.poll_seconds)
        return TaskDeferred(trigger=PauseTrigger(now + settings.poll_seconds, {"end": end}), method_name="look")

    def _wait(self, prefix: str, deadline: datetime, end: datetime, used_marker: str | None) -> TaskDeferred:
        """Return a deferral until the delivery is complete or the deadline has passed; *end* is the last deadline."""
        trigger = DeliveryCompleteTrigger(
            source=self.pipeline.source.model_dump(mode="json"),
            prefix=prefix,
            settings=self.pipeline.receive.model_dump(mode="json"),
            deadline=deadline.isoformat(),
            used_marker=used_marker,
            bucket=self.pipeline.find_settings(prefix).model_dump(mode="json"),
        )
        after = {"prefix": prefix, "end": end.isoformat(), "used_marker": used_marker, "is_last": deadline >= end}
        return TaskDeferred(trigger=trigger, method_name="execute_complete", kwargs=after)

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any] | None = None,
        prefix: str = "",
        end: str = "",
        used_marker: str | None = None,
        *,
        is_last: bool = False,
    ) -> dict[str, int]:
        """Return the delivery's counts; if it is late, notify people and wait on; fail at the last deadline."""
        event = validate_execute_complete_event(event)
        last = datetime.fromisoformat(end) if end else None
        if event["status"] != "success" and last is not None and not is_last:
            notify_once(self.pipeline, "late", context, f"Still waiting for {event['message']}.")
            raise self._wait(prefix, last, last, used_marker)
        if event["status"] != "success":
            raise AirflowFailException(
                f"The delivery is not complete after {self.pipeline.receive.timeout_minutes:g} minutes; it waits for "
                f"{event['message']}. Complete it and clear this task, or change the pipeline's receive settings."
            )
        used_since = find_used_marker(self.pipeline, str(context["run_id"]), prefix) if last else used_marker
        if last is not None and used_since != used_marker:
            self.log.info("Another run, which waited at the same time, has taken the delivery of this marker.")
            raise self._wait(prefix, last, last, used_since)
        return {"objects": event["objects"], "bytes": event["bytes"]}
