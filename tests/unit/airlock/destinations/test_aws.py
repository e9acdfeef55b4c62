"""Queues, topics and buses get each message; what they refuse is said in their word."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from airlock.destinations import DestinationError
from airlock.destinations.eventbridge import EventBus
from airlock.destinations.sns import SnsTopic
from airlock.destinations.sqs import SqsQueue
from tests.unit.airlock.destinations.messages import BODY, MESSAGE

if TYPE_CHECKING:
    from airlock.destinations import Destination
    from tests.unit.airlock.destinations.aws import Aws

NOBODY = "http://127.0.0.1:9"
GONE = "arn:aws:sns:us-east-1:123456789012:gone"


def test_a_standard_queue_gets_it_with_what_a_receiver_filters_by(aws: Aws) -> None:
    url = aws.queue("studies")
    SqsQueue(aws.sqs, url).send(MESSAGE)
    (got,) = aws.taken(url)
    assert json.loads(got["Body"]) == BODY
    assert got["MessageAttributes"]["deduplication_id"]["StringValue"] == MESSAGE.deduplication_id
    assert got["MessageAttributes"]["pipeline"]["StringValue"] == "nightly"


def test_a_fifo_queue_drops_what_comes_again_and_keeps_a_subjects_order(aws: Aws) -> None:
    url = aws.queue("studies.fifo")
    queue = SqsQueue(aws.sqs, url)
    later = replace(MESSAGE, revision=2, deduplication_id="e" * 64)
    for message in (MESSAGE, MESSAGE, later, MESSAGE):
        queue.send(message)
    got = aws.taken(url)
    assert [json.loads(one["Body"])["revision"] for one in got] == [1, 2]
    assert {one["Attributes"]["MessageGroupId"] for one in got} == {MESSAGE.subject_key}


def test_a_topics_subscriber_gets_it(aws: Aws) -> None:
    url, sns = aws.queue("subscriber"), aws.client("sns")
    arn = sns.create_topic(Name="studies")["TopicArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=aws.arn(url), Attributes={"RawMessageDelivery": "true"})
    SnsTopic(sns, arn).send(MESSAGE)
    assert aws.bodies(url) == [BODY]


def test_a_fifo_topic_is_told_subject_and_deduplication_id(aws: Aws) -> None:
    url, sns = aws.queue("subscriber.fifo"), aws.client("sns")
    arn = sns.create_topic(Name="studies.fifo", Attributes={"FifoTopic": "true"})["TopicArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=aws.arn(url), Attributes={"RawMessageDelivery": "true"})
    SnsTopic(sns, arn).send(MESSAGE)
    (got,) = aws.taken(url)
    assert got["Attributes"]["MessageGroupId"] == MESSAGE.subject_key
    assert got["Attributes"]["MessageDeduplicationId"] == MESSAGE.deduplication_id


def test_a_rule_of_a_bus_gets_it(aws: Aws) -> None:
    url, events = aws.queue("target"), aws.client("events")
    events.create_event_bus(Name="imaging")
    events.put_rule(Name="all", EventBusName="imaging", EventPattern=json.dumps({"source": ["airlock"]}))
    events.put_targets(Rule="all", EventBusName="imaging", Targets=[{"Id": "1", "Arn": aws.arn(url)}])
    EventBus(events, "imaging", "airlock", "Contract Released").send(MESSAGE)
    (got,) = aws.bodies(url)
    assert (got["source"], got["detail-type"], got["detail"]) == ("airlock", "Contract Released", BODY)


def test_an_event_that_is_refused_within_a_success_is_none(aws: Aws) -> None:
    """PutEvents answers 200 and counts what it did not take."""
    bus = EventBus(aws.client("events"), "default", "", "Contract Released")
    with pytest.raises(DestinationError) as info:
        bus.send(MESSAGE)
    assert info.value.code == "InvalidArgument"
    assert not info.value.retryable


@pytest.mark.parametrize("kind", ["sqs", "sns", "eventbridge"])
def test_what_is_not_there_or_does_not_answer_may_be_there_later(aws: Aws, kind: str) -> None:
    def destination(endpoint: str | None = None) -> Destination:
        if kind == "sqs":
            return SqsQueue(aws.client("sqs", endpoint), f"{endpoint or aws.endpoint}/123456789012/gone")
        if kind == "sns":
            return SnsTopic(aws.client("sns", endpoint), GONE)
        return EventBus(aws.client("events", endpoint), "gone", "airlock", "Contract Released")

    with pytest.raises(DestinationError) as info:
        destination(NOBODY).send(MESSAGE)
    assert (info.value.code, info.value.retryable) == ("EndpointConnectionError", True)
    with pytest.raises(DestinationError) as info:
        destination().send(MESSAGE)
    assert info.value.retryable
    assert info.value.code in {"NonExistentQueue", "NotFound", "ResourceNotFoundException"}
