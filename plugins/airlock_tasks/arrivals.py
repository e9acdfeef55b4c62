"""Arrivals: the queue of S3 notifications starts runs, through an asset watcher.

This uses Airflow's ack mode (``airflow.triggers.shared_stream``): messages are gathered into one event, and deleted
only when that event is in Airflow's database. Messages that need no run are deleted at once, and those that cannot be
read once the dead-letter queue has them. A message that is not deleted comes again; the run that it starts finds
nothing new.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.observability.stats import gauge, incr
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk import Asset, AssetWatcher
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from airflow.triggers.shared_stream import SharedStreamProducer

from airlock.pipelines import Arrivals
from airlock.stages.notifications import PoisonError, announced_below, count_created_below, read_notification
from airlock.storage.aws import AWS_ERRORS, error_code
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable, Iterator, Sequence

    from airflow.sdk import Context
    from airflow.triggers.shared_stream import AdvanceItem

    from airlock.pipelines import Pipeline
    from airlock.stages.notifications import Notification, Poison

log = logging.getLogger(__name__)

UNREACHABLE = (*AWS_ERRORS, AirflowException, OSError)
_LONG_POLL = 20  # seconds; the longest that SQS waits for a message
_IN_ONE_CALL = 10  # messages; the most that SQS receives, deletes or changes at once
_LONGEST_PAUSE = 60.0  # seconds between two attempts to reach the queue
_LONGEST_INVISIBLE = 12 * 3600  # seconds; SQS allows no more
_DELETING = 60  # seconds that deleting an event's messages may take
_TRIES = 3  # attempts to delete messages
_MOST_ANNOUNCED = 2_000  # objects of an event that a run looks for; Airflow's database keeps their ids


@dataclass(frozen=True)
class Burst:
    """The messages that were gathered for one event."""

    notifications: tuple[Notification, ...]
    poison: int  # messages that are not notifications


class QueueProducer(SharedStreamProducer):
    """Reads one queue for all pipelines that use it, in any order: a standard queue has none.

    Parameters
    ----------
    settings
        The ``arrivals`` settings that the pipelines share.
    """

    def __init__(self, settings: Arrivals) -> None:
        self.settings = settings
        self._client: Any = None
        self._connection = AsyncExitStack()
        self._pause = settings.backoff_seconds
        self._poison = 0
        self._received: set[str] = set()  # receipt handles of messages neither deleted nor given back

    async def open_stream(self) -> AsyncIterator[tuple[Burst, tuple[str, ...]]]:
        """Yield bursts with the receipt handles of their messages, until Airflow stops reading."""
        while True:
            notifications, receipts = await self._gather()
            burst, self._poison = Burst(tuple(notifications), self._poison), 0
            yield burst, tuple(receipts)

    def get_advance_lane(self, broker_payload: tuple[str, ...]) -> Hashable:
        """Return a lane of its own for each burst, so that no burst waits for another."""
        return broker_payload[0]

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Delete the messages of bursts that have their event in Airflow's database, or need none.

        Those of bursts that failed stay: SQS delivers them again.
        """
        for receipts, outcome in batch:
            if outcome.is_clean or outcome.rejected:
                for chunk in _split_into_calls(receipts):
                    await self._delete(chunk)
            self._received.difference_update(receipts)

    async def aclose(self) -> None:
        """Give unsettled messages back to the queue, so that the next reader gets them at once."""
        if self._client is not None:
            for chunk in _split_into_calls(sorted(self._received)):
                entries = [entry | {"VisibilityTimeout": 0} for entry in _make_entries(chunk)]
                try:
                    await self._client.change_message_visibility_batch(
                        QueueUrl=self.settings.queue_url, Entries=entries
                    )
                except UNREACHABLE as error:
                    log.warning(
                        "Messages were not given back. SQS delivers them again later. Error: %s.", error_code(error)
                    )
                    break
        await self._connection.aclose()

    async def _gather(self) -> tuple[list[Notification], list[str]]:
        """Receive until there are ``gather_messages``, or ``gather_seconds`` have passed since the first."""
        notifications: list[Notification] = []
        receipts: list[str] = []
        until = math.inf
        while len(receipts) < self.settings.gather_messages and (left := until - time.monotonic()) > 0:
            for message in await self._receive(min(left, _LONG_POLL)):
                notification = await self._read_or_set_aside(message)
                if notification is not None:
                    notifications.append(notification)
                    receipts.append(message["ReceiptHandle"])
                    until = min(until, time.monotonic() + self.settings.gather_seconds)
        return notifications, receipts

    async def _receive(self, wait: float) -> list[dict[str, Any]]:
        """Return messages; none if none came, or after a pause if the queue could not be reached."""
        try:
            client = await self._connect()
            reply = await client.receive_message(
                QueueUrl=self.settings.queue_url,
                MaxNumberOfMessages=_IN_ONE_CALL,
                WaitTimeSeconds=math.ceil(wait),
                VisibilityTimeout=self._invisible_seconds(),
                MessageSystemAttributeNames=["SentTimestamp"],
            )
        except UNREACHABLE as error:
            await self._reconnect_later(error)
            return []
        self._pause = self.settings.backoff_seconds
        messages: list[dict[str, Any]] = reply.get("Messages", [])
        self._received.update(message["ReceiptHandle"] for message in messages)
        incr("airlock.arrivals.messages", len(messages))
        gauge("airlock.arrivals.oldest_seconds", _find_age(messages), tags={"queue": self._queue_name})
        return messages

    @property
    def _queue_name(self) -> str:
        return self.settings.queue_url.rpartition("/")[2]

    def _invisible_seconds(self) -> int:
        """Return how long SQS hides a message: until its event is stored, or Airflow gives the event up."""
        patience = conf.getfloat("triggerer", "shared_stream_ack_timeout", fallback=300.0)
        return min(math.ceil(self.settings.gather_seconds + patience + _DELETING), _LONGEST_INVISIBLE)

    async def _connect(self) -> Any:
        if self._client is None:
            hook = AwsBaseHook(
                aws_conn_id=self.settings.aws_conn_id, region_name=self.settings.region_name, client_type="sqs"
            )
            self._client = await self._connection.enter_async_context(await hook.get_async_conn())  # type: ignore[no-untyped-call]
        return self._client

    async def _reconnect_later(self, error: Exception) -> None:
        incr("airlock.arrivals.failures")
        log.warning("The queue cannot be read. Trying again in %.0f s. Error: %s.", self._pause, error_code(error))
        self._client = None
        await self._connection.aclose()
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _read_or_set_aside(self, message: dict[str, Any]) -> Notification | None:
        try:
            return read_notification(message["Body"])
        except PoisonError as error:
            await self._set_aside(message, error.reason)
            return None

    async def _set_aside(self, message: dict[str, Any], reason: Poison) -> None:
        """Send a message that is not a notification to the dead-letter queue, and only then delete it.

        Without that queue, or if sending fails, the message is left to the redrive policy of its own queue.
        """
        self._poison += 1
        incr("airlock.arrivals.poison", tags={"reason": str(reason)})
        log.warning("A message is not an S3 notification: %s.", reason)
        receipt = message["ReceiptHandle"]
        self._received.discard(receipt)
        if self.settings.dead_letter_queue_url is None:
            return
        try:
            await (await self._connect()).send_message(
                QueueUrl=self.settings.dead_letter_queue_url,
                MessageBody=message["Body"],
                MessageAttributes={"reason": {"DataType": "String", "StringValue": str(reason)}},
            )
        except UNREACHABLE as error:
            log.warning(
                "Sending to the dead-letter queue failed. SQS delivers the message again. %s.", error_code(error)
            )
            return
        await self._delete([receipt])

    async def _delete(self, receipts: Sequence[str]) -> None:
        """Delete messages; one that SQS fails to delete comes again, and starts a run that finds nothing new."""
        left = list(receipts)
        for _ in range(_TRIES):
            try:
                client = await self._connect()
                reply = await client.delete_message_batch(QueueUrl=self.settings.queue_url, Entries=_make_entries(left))
            except UNREACHABLE as error:
                log.warning("%d messages were not deleted. SQS delivers them again. %s.", len(left), error_code(error))
                return
            failed = reply.get("Failed", [])
            left = [left[int(item["Id"])] for item in failed if not item.get("SenderFault")]
            if len(left) < len(failed):
                log.warning("%d messages cannot be deleted. SQS delivers them again.", len(failed) - len(left))
            if not left:
                return
        log.warning("%d messages were not deleted in %d attempts. SQS delivers them again.", len(left), _TRIES)


def _find_age(messages: Sequence[dict[str, Any]]) -> float:
    """Return the age in seconds of the oldest of these messages; 0 if there is none: then nothing waits."""
    sent = [int(one.get("Attributes", {}).get("SentTimestamp", time.time() * 1000)) for one in messages]
    return max(0.0, time.time() - min(sent) / 1000) if sent else 0.0


def _split_into_calls(receipts: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(receipts), _IN_ONE_CALL):
        yield receipts[first : first + _IN_ONE_CALL]


def _make_entries(receipts: Sequence[str]) -> list[dict[str, Any]]:
    return [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]


class ArrivalsTrigger(BaseEventTrigger):
    """Fires one event for the messages of a burst, if one names an object of the source.

    The event carries counts, and digests by which a run counts the objects that were gone before it listed.

    Parameters
    ----------
    source
        ``s3://bucket/prefix/`` of the pipeline.
    **settings
        The fields of `airlock.pipelines.Arrivals`.
    """

    def __init__(self, *, source: str, **settings: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.source = source
        self.settings = Arrivals.model_validate(settings)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        kwargs = {"source": self.source} | self.settings.model_dump(mode="json")
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    def shared_stream_key(self) -> Hashable:
        """Return the key that pipelines with one queue share; `airlock.pipelines` refuses different settings for it."""
        return ("airlock-arrivals", self.settings)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Return the reader of the queue."""
        return QueueProducer(cls(**kwargs).settings)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Burst]) -> AsyncIterator[TriggerEvent]:
        """Yield an event for each burst that names an object of the source."""
        source = S3Uri.parse(self.source)
        async for burst in shared_stream:
            objects = count_created_below(source, burst.notifications)
            if objects:
                counts = {"objects": objects, "messages": len(burst.notifications), "poison": burst.poison}
                announced = announced_below(source, burst.notifications, _MOST_ANNOUNCED)
                yield TriggerEvent(counts | {"announced": announced})  # type: ignore[no-untyped-call]

    def run(self) -> AsyncIterator[TriggerEvent]:
        """Refuse to read the queue alone; Airflow calls this only without a shared stream."""
        raise NotImplementedError("The queue is read through the shared stream only.")


def read_announced(context: Context) -> list[str]:
    """Return the ids of the objects that the events of a woken run have announced; none for other runs."""
    events = [event for found in (context.get("triggering_asset_events") or {}).values() for event in found]
    payloads = ((event.extra or {}).get("payload") or {} for event in events)
    return sorted({one for payload in payloads if isinstance(payload, dict) for one in payload.get("announced", ())})


def arrivals_asset(pipeline: Pipeline, settings: Arrivals) -> Asset:
    """Return the asset that gets the events of a pipeline's queue."""
    trigger = ArrivalsTrigger(source=pipeline.source.uri, **settings.model_dump(mode="json"))
    return Asset(f"airlock-{pipeline.name}-arrivals", watchers=[AssetWatcher(name="queue", trigger=trigger)])
