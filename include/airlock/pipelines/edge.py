"""``edge:`` of a pipeline file: the edge that fills the pipeline's source, and the queue that tells it of the data.

The edge receives DICOM over the network and puts it on S3 (package airlock_edge). It answers storage commitment
requests by what Airlock tells it.
"""

from __future__ import annotations

from pydantic import Field

from airlock.pipelines.arrivals import QUEUE_URL
from airlock.pipelines.settings import Settings


class Edge(Settings):
    """The queue that tells the edge which of its objects are imported, released or failed."""

    queue_url: str = Field(pattern=QUEUE_URL, description="a standard SQS queue that the edge reads")
    aws_conn_id: str = Field("aws_default", description="Airflow connection for the queue")
    region_name: str | None = Field(None, description="AWS region of the queue; by default the connection's")
