"""What S3 says of its objects through SQS: one message body to the objects that were created.

A notification says only that something below a source changed. What a run takes in is the difference between S3 and
the ledger, so a message that is lost, doubled, late or about another prefix changes nothing but when a run wakes.

Forms: S3's own event message (Amazon S3 User Guide, "Event message structure"), the same through SNS, and EventBridge's
(Amazon S3 User Guide, "Using EventBridge").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Poison(StrEnum):
    """Why a message can be read by nobody."""

    NOT_JSON = "not_json"  # the body is no JSON text
    NO_NOTIFICATION = "no_notification"  # JSON, but none of the forms that S3 sends
    NO_OBJECT = "no_object"  # a creation that names no bucket or no key


class PoisonError(ValueError):
    """A message is no notification, and will be none when it comes again.

    Parameters
    ----------
    reason
        What is wrong with it.
    """

    def __init__(self, reason: Poison) -> None:
        super().__init__(f"a message of the queue is no S3 notification: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Notification:
    """What one message said: the objects that were created; none where it was about something else."""

    created: frozenset[S3Uri]


def read_notification(body: str) -> Notification:
    """Read one message body.

    S3's test message and what is no creation (deletions, restorations, tags) name no object.

    Raises
    ------
    PoisonError
        If it is no notification, or one of its records names no object.
    """
    try:
        content = _unwrapped(_loaded(body))
        return Notification(frozenset(_created(content)))
    except RecursionError:
        raise PoisonError(Poison.NOT_JSON) from None


def below(source: S3Uri, notifications: Iterable[Notification]) -> int:
    """Return how many objects below a source were created, each counted once."""
    created = {uri for notification in notifications for uri in notification.created}
    return sum(uri.bucket == source.bucket and uri.key.startswith(source.key) for uri in created)


def _loaded(body: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        raise PoisonError(Poison.NOT_JSON) from None
    if not isinstance(content, dict):
        raise PoisonError(Poison.NO_NOTIFICATION)
    return content


def _unwrapped(content: dict[str, Any]) -> dict[str, Any]:
    """Return what SNS has put into a message of its own, where raw message delivery is off."""
    message = content.get("Message")
    return _loaded(message) if content.get("Type") == "Notification" and isinstance(message, str) else content


def _created(content: dict[str, Any]) -> Iterator[S3Uri]:
    if content.get("Event") == "s3:TestEvent":
        return
    records, detail = content.get("Records"), content.get("detail")
    if isinstance(records, list) and records:
        yield from (uri for record in records if (uri := _of_record(record)) is not None)
    elif content.get("source") == "aws.s3" and isinstance(detail, dict):
        if content.get("detail-type") == "Object Created":
            yield _object(detail, _as_it_is)
    else:
        raise PoisonError(Poison.NO_NOTIFICATION)


def _of_record(record: Any) -> S3Uri | None:
    """Return the object of one record of S3's own form, None where it was not created."""
    name = record.get("eventName") if isinstance(record, dict) else None
    if not isinstance(name, str):
        raise PoisonError(Poison.NO_NOTIFICATION)
    # SQS has "ObjectCreated:Put", a notification's configuration "s3:ObjectCreated:Put".
    if not name.removeprefix("s3:").startswith("ObjectCreated:"):
        return None
    return _object(record.get("s3"), unquote_plus)


def _as_it_is(key: str) -> str:
    """Return a key of EventBridge: it is not encoded, and a plus in it is a plus."""
    return key


def _object(place: Any, decoded: Any) -> S3Uri:
    try:
        bucket, key = place["bucket"]["name"], place["object"]["key"]
    except (KeyError, TypeError, IndexError):
        raise PoisonError(Poison.NO_OBJECT) from None
    if not (isinstance(bucket, str) and bucket and isinstance(key, str) and key):
        raise PoisonError(Poison.NO_OBJECT)
    return S3Uri(bucket, decoded(key))
