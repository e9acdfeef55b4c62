"""An SNS topic, standard or FIFO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.destinations.message import Message, aws_error
from airlock.destinations.sqs import attributes, fifo
from airlock.storage.aws import AWS_ERRORS

if TYPE_CHECKING:
    from botocore.client import BaseClient

# SNS API reference, Publish, "Errors": those about the message, not the topic.
_FOR_GOOD = frozenset({"InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid"})


class SnsTopic:
    """Publishes each message to a topic.

    Parameters
    ----------
    client
        boto3's client of ``sns``.
    topic_arn
        The topic; the name of a FIFO topic ends in ``.fifo``.
    """

    def __init__(self, client: BaseClient, topic_arn: str) -> None:
        self.client: Any = client
        self.topic_arn = topic_arn

    def send(self, message: Message) -> None:
        """Publish the message; see `Destination.send`."""
        try:
            self.client.publish(
                TopicArn=self.topic_arn,
                Message=message.to_json(),
                MessageAttributes=attributes(message),
                **(fifo(message) if self.topic_arn.endswith(".fifo") else {}),
            )
        except AWS_ERRORS as error:
            raise aws_error(error, _FOR_GOOD) from None
