"""One message of the queue to the objects that were created: every form that S3 sends, and none that it does not."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.records import arrival_id
from airlock.stages.notifications import (
    Notification,
    Poison,
    PoisonError,
    announced_below,
    count_created_below,
    read_notification,
)
from airlock.storage.s3uri import S3Uri

SOURCE = S3Uri("inbox", "in dir/")


def record(key: Any, event: Any = "ObjectCreated:Put", bucket: Any = "inbox") -> dict[str, Any]:
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": event,
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 1, "eTag": "e"}},
    }


def direct(*keys: str, event: str = "ObjectCreated:Put", bucket: str = "inbox") -> str:
    return json.dumps({"Records": [record(key, event, bucket) for key in keys]})


def eventbridge(key: Any, kind: str = "Object Created", bucket: str = "inbox") -> str:
    detail = {"version": "0", "bucket": {"name": bucket}, "object": {"key": key, "etag": "e", "version-id": "null"}}
    return json.dumps({"source": "aws.s3", "detail-type": kind, "detail": detail})


def keys(body: str) -> set[str]:
    return {uri.key for uri in read_notification(body).created}


@pytest.mark.parametrize(
    "sent", ["in+dir/a%2Bb+%C3%A9.dcm", "in+dir%2Fa%2Bb+%C3%A9.dcm", "in%20dir/a%2Bb%20%C3%A9.dcm"]
)
def test_keys_of_s3s_own_messages_are_form_encoded(sent: str) -> None:
    assert keys(direct(sent)) == {"in dir/a+b é.dcm"}


def test_keys_of_eventbridge_are_as_they_are() -> None:
    assert keys(eventbridge("in dir/a+b%20é.dcm")) == {"in dir/a+b%20é.dcm"}


def test_message_of_several_records_names_each_object_once() -> None:
    assert keys(direct("a", "b", "a")) == {"a", "b"}


def test_message_through_sns_is_unwrapped() -> None:
    assert keys(json.dumps({"Type": "Notification", "Message": direct("a+b")})) == {"a b"}


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "inbox"}),
        direct("a", event="ObjectRemoved:Delete"),
        direct("a", event="ObjectRestore:Completed"),
        direct("a", event="s3:LifecycleExpiration:Delete"),
        eventbridge("a", "Object Deleted"),
    ],
)
def test_what_is_no_creation_names_nothing(body: str) -> None:
    assert keys(body) == set()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", Poison.NOT_JSON),
        ("{", Poison.NOT_JSON),
        ("[" * 100_000, Poison.NOT_JSON),
        ("1" * 5000, Poison.NOT_JSON),
        ("[]", Poison.NO_NOTIFICATION),
        ("{}", Poison.NO_NOTIFICATION),
        ('{"Records": []}', Poison.NO_NOTIFICATION),
        ('{"Records": [7]}', Poison.NO_NOTIFICATION),
        ('{"Type": "Notification", "Message": "hello"}', Poison.NOT_JSON),
        (json.dumps({"source": "aws.ec2", "detail-type": "Object Created", "detail": {}}), Poison.NO_NOTIFICATION),
        (json.dumps({"Records": [record("")]}), Poison.NO_OBJECT),
        (json.dumps({"Records": [record(None)]}), Poison.NO_OBJECT),
        (json.dumps({"Records": [record("a", bucket=["inbox"])]}), Poison.NO_OBJECT),
        (json.dumps({"Records": [record("a", event=None)]}), Poison.NO_NOTIFICATION),
        (json.dumps({"Records": [record("a"), {"eventName": "ObjectCreated:Put"}]}), Poison.NO_OBJECT),
        (eventbridge(17), Poison.NO_OBJECT),
    ],
)
def test_what_can_be_read_by_nobody_is_poison(body: str, reason: Poison) -> None:
    with pytest.raises(PoisonError) as info:
        read_notification(body)
    assert info.value.reason is reason


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["Records", "detail", "detail-type", "source", "eventName", "s3", "bucket", "name", "object",
                         "key", "Event", "Type", "Message"]), inner),
)  # fmt: skip


def _pieces(value: Any) -> str:
    return json.dumps({"Records": [value], "detail": value, "source": "aws.s3", "detail-type": "Object Created"})


@given(st.text() | VALUES.map(json.dumps) | VALUES.map(_pieces))
def test_any_text_is_a_notification_or_poison(body: str) -> None:
    """Anything else that is raised fails the test."""
    with suppress(PoisonError):
        assert all(uri.bucket and uri.key for uri in read_notification(body).created)


@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=3), st.text(min_size=1))
def test_unknown_fields_change_nothing(more: dict[str, Any], key: str) -> None:
    content = json.loads(eventbridge(key))
    assert keys(json.dumps(more | content)) == {key}


def test_only_what_lies_below_the_source_counts_and_once() -> None:
    said = [direct("in+dir/a"), eventbridge("in dir/a"), eventbridge("in dir/b"), direct("other/a"), direct("in+dir")]
    said.append(direct("in+dir/a", bucket="foreign"))
    assert count_created_below(SOURCE, map(read_notification, said)) == 2


def test_nothing_lies_below_a_source_that_no_message_names() -> None:
    assert count_created_below(SOURCE, [Notification(frozenset())]) == 0


def test_a_created_object_is_announced_by_the_id_that_a_listing_gives_it() -> None:
    said = [direct("in+dir/a", "in+dir/b/", "other/a"), direct("in+dir/a"), eventbridge("in dir/without-size")]
    expected = [arrival_id("inbox", "in dir/a", None, "e", 1)]
    assert announced_below(SOURCE, map(read_notification, said), 10) == expected
    assert announced_below(SOURCE, map(read_notification, said), 0) == []
