"""``arrivals:``, of every kind of pipeline: the queue that wakes runs when S3 has something new."""

from __future__ import annotations

from pydantic import Field, model_validator

from airlock.pipelines.settings import Settings

_QUEUE_URL = r"^https?://[^/\s]+/[0-9]{12}/[A-Za-z0-9_-]{1,80}$"


class Arrivals(Settings):
    """The queue that S3 notifies, which wakes runs; what a run takes in is what S3 lists and no run has."""

    queue_url: str = Field(pattern=_QUEUE_URL, description="a standard SQS queue that S3 or EventBridge sends to")
    aws_conn_id: str = Field("aws_default", description="Airflow connection for the queues")
    region_name: str | None = Field(None, description="AWS region of the queues; without it that of the connection")
    gather_seconds: float = Field(
        30, ge=0, le=3600, description="from the first message to the event that all messages until then make"
    )
    gather_messages: int = Field(
        10_000, ge=1, le=100_000, description="messages that make an event at once; SQS lets 120,000 be in flight"
    )
    dead_letter_queue_url: str | None = Field(
        None,
        pattern=_QUEUE_URL,
        description="gets messages that are no notification; without it the queue's own redrive policy has to",
    )
    backoff_seconds: float = Field(1, gt=0, description="first pause after the queue could not be read; it doubles")

    @model_validator(mode="after")
    def _queues_differ(self) -> Arrivals:
        if self.dead_letter_queue_url == self.queue_url:
            raise ValueError(
                "dead_letter_queue_url is queue_url: what is no notification would come back for ever; make a "
                "queue of its own for it"
            )
        return self
