"""The section ``commitment`` of ``edge.yaml``, and the state in which an instance counts as safe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from airlock.pipelines.arrivals import QUEUE_URL
from airlock.pipelines.settings import Settings

After = Literal["durable", "imported", "released"]


class Commitment(Settings):
    """When an instance is committed, and how long a request waits for that."""

    after: After = Field(
        "imported",
        description="an instance is committed when it is durable on S3, when Airlock's audit has proven it in the data "
        "store, held or not, or when it is released",
    )
    wait_hours: float = Field(
        24, gt=0, le=24 * 14, description="a request is answered after this time at the latest, with what is known then"
    )
    unknown_minutes: float = Field(
        15,
        ge=0,
        le=24 * 60,
        description="how long a request waits for instances that the edge has never received, which are answered 0112",
    )
    queue_url: str | None = Field(
        None,
        pattern=QUEUE_URL,
        description="the SQS queue by which Airlock tells the edge what became of its objects: edge.queue_url of the "
        "pipeline; null: only requests of peers with durable are taken",
    )
    endpoint_url: str | None = Field(None, description="another SQS endpoint, for example of a VPC; null for AWS's own")
    report_days: float = Field(
        14, gt=0, le=365, description="how long a result is sent again to a peer that does not take it"
    )
    keep_days: float = Field(90, gt=0, le=3650, description="how long answered requests are kept for uncommitted")

    @model_validator(mode="after")
    def _check(self) -> Commitment:
        if self.endpoint_url is not None and self.queue_url is None:
            raise ValueError("endpoint_url needs queue_url: set queue_url, or remove endpoint_url")
        return self
