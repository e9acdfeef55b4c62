"""The queues of a pipeline's ``arrivals`` on the local stack, and S3's notifications to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.pipelines import Arrivals, Pipeline


def make_queues(sqs: Any, s3: Any, pipeline: Pipeline, settings: Arrivals) -> None:
    """Make a pipeline's queues, and have its bucket notify the first one of objects created below the source.

    Parameters
    ----------
    sqs, s3
        boto3's clients of the local servers; the bucket must exist.
    pipeline, settings
        The pipeline and its ``arrivals``.
    """
    for url in filter(None, (settings.queue_url, settings.dead_letter_queue_url)):
        sqs.create_queue(QueueName=url.rsplit("/", 1)[-1])
    attributes = sqs.get_queue_attributes(QueueUrl=settings.queue_url, AttributeNames=["QueueArn"])["Attributes"]
    source = S3Uri.parse(pipeline.source.uri)
    queue = {
        "QueueArn": attributes["QueueArn"],
        "Events": ["s3:ObjectCreated:*"],
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": source.key}]}},
    }
    s3.put_bucket_notification_configuration(
        Bucket=source.bucket, NotificationConfiguration={"QueueConfigurations": [queue]}
    )
