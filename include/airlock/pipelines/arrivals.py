"""``arrivals:`` of a pipeline file: the queue whose messages wake runs when S3 has new objects."""

from __future__ import annotations

from pydantic import Field, model_validator

from airlock.pipelines.settings import Settings

QUEUE_URL = r"^https?://[^/\s]+/[0-9]{12}/[A-Za-z0-9_-]{1,80}$"


class Arrivals(Settings):
    """The queue that S3 notifies and that wakes runs; a run imports what S3 lists and no run has taken."""

    queue_url: str = Field(pattern=QUEUE_URL, description="a standard SQS queue that S3 or EventBridge sends to")
    aws_conn_id: str = Field("aws_default", description="Airflow connection for the queues")
    region_name: str | None = Field(None, description="AWS region of the queues; by default the connection's")
    gather_seconds: float = Field(
        30, ge=0, le=3600, description="how long messages are collected, from the first one on, before they wake a run"
    )
    gather_messages: int = Field(
        10_000,
        ge=1,
        le=100_000,
        description="number of messages that wakes a run at once; SQS allows 120,000 in flight",
    )
    dead_letter_queue_url: str | None = Field(
        None,
        pattern=QUEUE_URL,
        description="receives messages that are not notifications; without it the queue needs a redrive "
        "policy of its own",
    )
    backoff_seconds: float = Field(
        1, gt=0, description="first pause after the queue cannot be read; it doubles each time"
    )

    @model_validator(mode="after")
    def _queues_differ(self) -> Arrivals:
        if self.dead_letter_queue_url == self.queue_url:
            raise ValueError(
                "dead_letter_queue_url equals queue_url, so messages that are not notifications would return forever: "
                "name another queue"
            )
        return self
