"""The section ``commitment`` of ``edge.yaml``, and the state in which an instance counts as safe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
