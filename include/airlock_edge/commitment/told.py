"""What Airlock tells by SQS (docs/edge-commitment.md): it is flushed to the disk before a message is deleted."""

from __future__ import annotations

import json
import logging
import sqlite3
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config

from airlock.storage.aws import error_code
from airlock_edge.clients import LastingClient
from airlock_edge.commitment.store import Told
from airlock_edge.repeating import Repeating

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock_edge.commitment.settings import Commitment
    from airlock_edge.commitment.store import CommitmentStore
    from airlock_edge.metrics import Metrics

_log = logging.getLogger(__name__)

SCHEMA: Final = "airlock.told/1"
_STATES: Final = ("imported", "released", "failed")
_WAIT_SECONDS = 2  # of one request for messages; the edge stops no faster
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # after an error of SQS
_SOONEST = 0.5  # seconds after which SQS answers that there is nothing; a proxy in its place may answer at once


class MessageError(ValueError):
    """A message is not one of Airlock's; the text quotes nothing of it."""


def parse_message(body: str, bucket: str) -> list[Told]:
    """Return what a message says about objects of this bucket.

    Raises
    ------
    MessageError
        If it is not a message of Airlock.
    """
    try:
        content = json.loads(body)
        _need_schema(content["schema"])
        return [_parse_object(one) for one in content["objects"] if one["bucket"] == bucket]
    except MessageError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MessageError(f"it cannot be read ({type(error).__name__})") from None


def _need_schema(schema: object) -> None:
    if schema != SCHEMA:
        raise MessageError("its schema is another one: update the edge before Airlock")


def _parse_object(one: dict[str, Any]) -> Told:
    order = tuple(one["order"])
    texts = one["key"], one["state"], one["disposition"]
    if one["state"] not in _STATES or not order or not all(type(number) is int for number in order):
        raise MessageError("an object has no known state or no order: update the edge before Airlock")
    if not all(isinstance(text, str) for text in texts) or not isinstance(one["reason"], str | None):
        raise MessageError("an object has a value that is not text")
    "".join((*texts, one["reason"] or "")).encode()  # JSON may spell halves of characters, which SQLite does not take
    return Told(*texts, one["reason"], order)


class ToldReader(Repeating):
    """A thread that reads the queue; a context manager.

    Parameters
    ----------
    settings
        The section ``commitment``.
    region_name, bucket
        Of the edge's destination.
    store
        Records what is read.
    metrics
        Counts it.
    note_news
        Is called when something new was recorded.
    """

    def __init__(
        self,
        settings: Commitment,
        *,
        region_name: str,
        bucket: str,
        store: CommitmentStore,
        metrics: Metrics,
        note_news: Callable[[], None],
    ) -> None:
        super().__init__("told")
        config = Config(connect_timeout=10, read_timeout=_WAIT_SECONDS + 20, retries={"total_max_attempts": 2})
        self._client = LastingClient(
            lambda: boto3.session.Session().client(
                "sqs", region_name=region_name, endpoint_url=settings.endpoint_url, config=config
            )
        )
        self._queue_url = settings.queue_url
        self._bucket = bucket
        self._store = store
        self._metrics = metrics
        self._note_news = note_news
        self._pause = 0.0  # after the last step

    def _step(self) -> float:
        begun = monotonic()
        try:
            taken = self.take()
        except Exception as error:  # noqa: BLE001 - botocore raises AWS_ERRORS, and any error on a malformed answer
            self._metrics.count("told_failures_total")
            self._pause = min(2 * self._pause, _LONGEST_PAUSE) if self._pause else _FIRST_PAUSE
            _log.error(
                "Airlock's queue cannot be read (%s): check commitment.queue_url and the edge's rights on it. "
                "Commitment requests wait meanwhile; the edge tries again in %.0f s",
                "disk" if isinstance(error, sqlite3.Error) else error_code(error),
                self._pause,
            )
            return self._pause
        self._pause = 0.0
        return 0.0 if taken or monotonic() - begun >= _SOONEST else _FIRST_PAUSE

    def take(self) -> int:
        """Take the messages that wait, at most ten, and return their number.

        A message that is not Airlock's stays in the queue, for the queue's redrive policy.
        """
        asked = {"QueueUrl": self._queue_url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": _WAIT_SECONDS}
        messages = self._client.call("receive_message", **asked).get("Messages", [])
        news: list[Told] = []
        over: list[dict[str, str]] = []
        for message in messages:
            try:
                news += parse_message(message["Body"], self._bucket)
                over.append({"Id": str(len(over)), "ReceiptHandle": message["ReceiptHandle"]})
            except MessageError as error:
                self._metrics.count("told_refused_total")
                _log.error("a message of the queue stays there: %s", error)
        changed = self._store.note_told(news) if news else 0
        if over:
            self._client.call("delete_message_batch", QueueUrl=self._queue_url, Entries=over)
        self._metrics.count("told_objects_total", changed)
        if changed:
            self._note_news()
        return len(messages)
