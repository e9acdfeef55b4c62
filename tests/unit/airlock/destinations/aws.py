"""moto's SQS, SNS and EventBridge, and queues to look into."""

from __future__ import annotations

import json
from typing import Any

import boto3
from botocore.config import Config


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
