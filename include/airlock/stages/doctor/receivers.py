"""The queues, topics and buses of AWS that a pipeline sends to: whether they exist.

They get its contracts, its notifications and what its edge is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from airlock.pipelines import ClinicalPipeline, ImagingPipeline
from airlock.pipelines.notify import CONNECTIONS
from airlock.stages.doctor.arrivals import MISSING
from airlock.stages.doctor.findings import Check, failed, passed
from airlock.stages.doctor.identity import caller_id
from airlock.stages.doctor.uses import list_aws_connections
from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import Pipeline
    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.world import World

_MISSING: Final = MISSING | {"NotFound", "NotFoundException", "ResourceNotFoundException"}
_KINDS: Final = {"sqs": "queue", "sns": "topic", "events": "bus"}
_RIGHTS: Final = {
    "sqs": "sqs:GetQueueAttributes",
    "sns": "sns:GetTopicAttributes",
    "events": "events:DescribeEventBus",
}


@dataclass(frozen=True)
class _Receiver:
    """A queue, a topic or a bus, by the field of the pipeline file that names it."""

    field: str
    service: str
    name: str  # its address or ARN
    connection: str
    region: str | None


def list_checks(world: World) -> Iterator[Check]:
    """Yield the check of each queue, topic and bus."""
    callers = list_aws_connections(world.pipeline)
    pipeline = world.pipeline
    for one in (*_list_routes(pipeline), *_list_notified(pipeline), *_list_edge(pipeline)):
        needs = (caller_id(one.connection),) if one.connection in callers else ()
        yield Check("receiver.exists", one.field, partial(_check, world, one), needs, _RIGHTS[one.service])


def _list_routes(pipeline: Pipeline) -> Iterator[_Receiver]:
    for route in pipeline.routes:
        field, queue, topic, bus = f"routes.{route.name}", route.sqs, route.sns, route.eventbridge
        if queue is not None:
            yield _Receiver(field, "sqs", queue.queue_url, queue.aws_conn_id, queue.region_name)
        if topic is not None:
            yield _Receiver(field, "sns", topic.topic_arn, topic.aws_conn_id, topic.region_name)
        if bus is not None:
            yield _Receiver(field, "events", bus.bus, bus.aws_conn_id, bus.region_name)


def _list_notified(pipeline: Pipeline) -> Iterator[_Receiver]:
    told = pipeline.notify if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) else ()
    for number, one in enumerate(told, 1):
        for service, name in (("sqs", one.sqs), ("sns", one.sns)):
            if name is not None:
                connection = one.conn_id or CONNECTIONS[service]
                yield _Receiver(f"notify, entry {number}", service, name, connection, one.region_name)


def _list_edge(pipeline: Pipeline) -> Iterator[_Receiver]:
    edge = pipeline.edge if isinstance(pipeline, ImagingPipeline) else None
    if edge is not None:
        yield _Receiver("edge.queue_url", "sqs", edge.queue_url, edge.aws_conn_id, edge.region_name)


def _ask(client: Any, receiver: _Receiver) -> None:
    """Ask a receiver's service about it."""
    if receiver.service == "sqs":
        client.get_queue_attributes(QueueUrl=receiver.name, AttributeNames=["QueueArn"])
    elif receiver.service == "sns":
        client.get_topic_attributes(TopicArn=receiver.name)
    else:
        client.describe_event_bus(Name=receiver.name)


def _check(world: World, receiver: _Receiver) -> Finding:
    kind = _KINDS[receiver.service]
    name = receiver.name.replace(":", "/").rpartition("/")[2]
    try:
        _ask(world.connect(receiver.connection).client(receiver.service, receiver.region), receiver)
    except ClientError as error:
        if error_code(error) not in _MISSING:
            raise
        return failed(
            f"There is no {kind} {name}, so nothing that is sent there arrives.",
            f"Correct its name or its Region in {receiver.field}, or create it.",
        )
    return passed(f"The {kind} {name} exists.")
