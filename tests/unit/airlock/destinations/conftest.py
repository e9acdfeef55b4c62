"""Real servers for the destinations: moto's SQS, SNS and EventBridge, and an HTTP endpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from tests.servers.moto import reset_moto
from tests.servers.webhook import Endpoint, webhook_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNT = "123456789012"


class Aws:
    """moto's services, and queues to look into."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.sqs = self.client("sqs")

    def client(self, service: str, endpoint: str | None = None) -> Any:
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        once = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5)
        return session.client(service, endpoint_url=endpoint or self.endpoint, config=once)

    def queue(self, name: str) -> str:
        attributes = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        return str(self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def arn(self, queue_url: str) -> str:
        attributes = self.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        return str(attributes["Attributes"]["QueueArn"])

    def taken(self, queue_url: str) -> list[Any]:
        """Take all messages out of a queue."""
        found = []
        while batch := self.sqs.receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=10, AttributeNames=["All"], MessageAttributeNames=["All"]
        ).get("Messages"):
            found += batch
            for one in batch:
                self.sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=one["ReceiptHandle"])
        return found

    def bodies(self, queue_url: str) -> list[Any]:
        return [json.loads(one["Body"]) for one in self.taken(queue_url)]


@pytest.fixture
def aws(s3_server: str) -> Aws:
    reset_moto(s3_server)
    return Aws(s3_server)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with webhook_endpoint() as found:
        yield found
