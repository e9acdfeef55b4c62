"""Read S3's notifications from SQS messages: each message body names the objects that were created.

A notification only wakes a run. The run imports the difference between S3 and the ledger, so a message that is lost,
doubled, late or about another prefix changes only when a run starts.

The forms are S3's event message (Amazon S3 User Guide, "Event message structure"), the same message through SNS, and
EventBridge's event (Amazon S3 User Guide, "Using EventBridge").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from itertools import compress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Poison(StrEnum):
    """Why a message is not a notification."""

    NOT_JSON = "not_json"  # the body is not JSON
    NO_NOTIFICATION = "no_notification"  # the JSON has none of the forms that S3 sends
    NO_OBJECT = "no_object"  # a created object has no bucket or no key


class PoisonError(ValueError):
    """A message is not a notification, however often it is delivered.

    Parameters
    ----------
    reason
        Why the message is not a notification.
    """

    def __init__(self, reason: Poison) -> None:
        super().__init__(f"a message in the queue is not an S3 notification: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Notification:
    """The objects that a message reports as created; none if it reports something else."""

    created: frozenset[S3Uri]
    contents: frozenset[tuple[S3Uri, str]] = frozenset()  # each with the `arrival_id` that a listing gives it


def read_notification(body: str) -> Notification:
    """Return the created objects that a message body names.

    S3's test message and other events (deletions, restorations, tags) name none.

    Raises
    ------
    PoisonError
        If the message is not a notification, or one of its records names no object.
    """
    try:
        content = _unwrap_sns(_parse_json(body))
        created = list(_created_objects(content))
        contents = ((uri, known) for uri, known in created if known is not None)
        return Notification(frozenset(uri for uri, _ in created), frozenset(contents))
    except RecursionError:
        raise PoisonError(Poison.NOT_JSON) from None


def count_created_below(source: S3Uri, notifications: Iterable[Notification]) -> int:
    """Return the number of distinct objects below a source that the notifications report as created."""
    created = {uri for notification in notifications for uri in notification.created}
    return sum(uri.bucket == source.bucket and uri.key.startswith(source.key) for uri in created)


def announced_below(source: S3Uri, notifications: Iterable[Notification], at_most: int) -> list[str]:
    """Return the `arrival_id` of objects below a source that the notifications report as created, so many at most.

    A listing leaves folder placeholders out, so they are left out here.
    """
    found = {one for notification in notifications for one in notification.contents}
    below = (uri.bucket == source.bucket and uri.key.startswith(source.key) for uri, _ in found)
    named = compress(found, below)
    return sorted(known for uri, known in named if not uri.key.endswith("/"))[:at_most]


def _parse_json(body: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        raise PoisonError(Poison.NOT_JSON) from None
    if not isinstance(content, dict):
        raise PoisonError(Poison.NO_NOTIFICATION)
    return content


def _unwrap_sns(content: dict[str, Any]) -> dict[str, Any]:
    """Return the notification inside SNS's own message, which SNS adds unless raw message delivery is on."""
    message = content.get("Message")
    return _parse_json(message) if content.get("Type") == "Notification" and isinstance(message, str) else content


def _created_objects(content: dict[str, Any]) -> Iterator[tuple[S3Uri, str | None]]:
    if content.get("Event") == "s3:TestEvent":
        return
    records, detail = content.get("Records"), content.get("detail")
    if isinstance(records, list) and records:
        yield from (found for record in records if (found := _created_object(record)) is not None)
    elif content.get("source") == "aws.s3" and isinstance(detail, dict):
        if content.get("detail-type") == "Object Created":
            yield _read_object(detail, _keep_encoding)
    else:
        raise PoisonError(Poison.NO_NOTIFICATION)


def _created_object(record: Any) -> tuple[S3Uri, str | None] | None:
    """Return the object of a record in S3's own form, or None if the record reports no creation."""
    name = record.get("eventName") if isinstance(record, dict) else None
    if not isinstance(name, str):
        raise PoisonError(Poison.NO_NOTIFICATION)
    # Messages say "ObjectCreated:Put"; the notification's configuration says "s3:ObjectCreated:Put".
    if not name.removeprefix("s3:").startswith("ObjectCreated:"):
        return None
    return _read_object(record.get("s3"), unquote_plus)


def _keep_encoding(key: str) -> str:
    """Return the key unchanged: EventBridge does not encode keys, so a plus is a plus."""
    return key


def _read_object(entry: Any, decode: Callable[[str], str]) -> tuple[S3Uri, str | None]:
    try:
        bucket, key = entry["bucket"]["name"], entry["object"]["key"]
    except (KeyError, TypeError, IndexError):
        raise PoisonError(Poison.NO_OBJECT) from None
    if not (isinstance(bucket, str) and bucket and isinstance(key, str) and key):
        raise PoisonError(Poison.NO_OBJECT)
    uri = S3Uri(bucket, decode(key))
    return uri, _identify(uri, entry["object"])


def _identify(uri: S3Uri, content: dict[str, Any]) -> str | None:
    """Return the `arrival_id` of a created object; None if the message lacks its etag or size."""
    from airlock.records import arrival_id  # noqa: PLC0415  # it loads polars, which DAG files must not

    etag, size = content.get("eTag", content.get("etag")), content.get("size")
    if not (isinstance(etag, str) and isinstance(size, int)):
        return None
    return arrival_id(uri.bucket, uri.key, None, etag.strip('"'), size)
