"""An SQS queue, standard or FIFO.

A FIFO queue drops what has the same MessageDeduplicationId for five minutes (SQS developer guide, "Exactly-once
processing"); on a standard queue, and after that time, the receiver knows a message again by its ``deduplication_id``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.destinations.message import Message, aws_error
from airlock.storage.aws import AWS_ERRORS

if TYPE_CHECKING:
    from botocore.client import BaseClient

# SQS API reference, SendMessage, "Errors": what it says of a message rather than of the queue.
_FOR_GOOD = frozenset({"InvalidMessageContents", "MessageTooLong"})


class SqsQueue:
    """Sends each message to a queue.

    Parameters
    ----------
    client
        Of boto3, for ``sqs``.
    queue_url
        The queue; its name ends in ``.fifo`` where it is one.
    """

    def __init__(self, client: BaseClient, queue_url: str) -> None:
        self.client: Any = client
        self.queue_url = queue_url

    def send(self, message: Message) -> None:
        """Send the message; see `Destination.send`."""
        try:
            self.client.send_message(
                QueueUrl=self.queue_url,
                MessageBody=message.to_json(),
                MessageAttributes=attributes(message),
                **(fifo(message) if self.queue_url.endswith(".fifo") else {}),
            )
        except AWS_ERRORS as error:
            raise aws_error(error, _FOR_GOOD) from None


def attributes(message: Message) -> dict[str, dict[str, str]]:
    """Return the attributes by which SQS and SNS let a subscriber filter without reading bodies."""
    named = {"deduplication_id": message.deduplication_id, "pipeline": message.pipeline}
    return {name: {"DataType": "String", "StringValue": value} for name, value in named.items()}


def fifo(message: Message) -> dict[str, str]:
    """Return what a FIFO queue or topic also wants: one subject's messages stay in order, different ones need not."""
    return {"MessageGroupId": message.subject_key, "MessageDeduplicationId": message.deduplication_id}
