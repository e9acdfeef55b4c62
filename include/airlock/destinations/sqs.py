"""An SQS queue, standard or FIFO.

A FIFO queue drops messages with the same MessageDeduplicationId for five minutes (SQS developer guide, "Exactly-once
processing"). On a standard queue, and after that time, the receiver recognizes a repeated message by its
``deduplication_id``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.destinations.message import Message, aws_error
from airlock.storage.aws import AWS_ERRORS

if TYPE_CHECKING:
    from botocore.client import BaseClient

# SQS API reference, SendMessage, "Errors": those about the message, not the queue.
_FOR_GOOD = frozenset({"InvalidMessageContents", "MessageTooLong"})


class SqsQueue:
    """Sends each message to a queue.

    Parameters
    ----------
    client
        boto3's client of ``sqs``.
    queue_url
        The queue; the name of a FIFO queue ends in ``.fifo``.
    """

    def __init__(self, client: BaseClient, queue_url: str) -> None:
        self.client: Any = client
        self.queue_url = queue_url

    def send(self, message: Message) -> None:
        """Send the message; see `Destination.send`."""
        order = fifo(message) if self.queue_url.endswith(".fifo") else {}
        self.put(message.to_json(), MessageAttributes=attributes(message), **order)

    def put(self, body: str, **parameters: Any) -> None:
        """Send a body, with further parameters of SendMessage; raises as `Destination.send`."""
        try:
            self.client.send_message(QueueUrl=self.queue_url, MessageBody=body, **parameters)
        except AWS_ERRORS as error:
            raise aws_error(error, _FOR_GOOD) from None


def attributes(message: Message) -> dict[str, dict[str, str]]:
    """Return the message attributes by which receivers of SQS and SNS can filter without reading bodies."""
    named = {"deduplication_id": message.deduplication_id, "pipeline": message.pipeline}
    return {name: {"DataType": "String", "StringValue": value} for name, value in named.items()}


def fifo(message: Message) -> dict[str, str]:
    """Return the parameters for a FIFO queue or topic; it keeps the order of one subject's messages only."""
    return {"MessageGroupId": message.subject_key, "MessageDeduplicationId": message.deduplication_id}
