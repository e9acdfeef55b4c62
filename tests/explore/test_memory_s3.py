"""The S3 in memory passes the tests that `airlock.storage.s3` passes against moto: they are imported, not copied."""

from __future__ import annotations

from datetime import UTC, datetime

import boto3
import pytest

from airlock.storage.s3 import S3
from tests.explore.memory_s3 import MemoryS3
from tests.unit.airlock.storage.test_s3 import *  # noqa: F403  # collected again here, with the fixture below
from tests.unit.airlock.world import BUCKETS


@pytest.fixture
def s3() -> S3:
    client = MemoryS3(lambda: datetime.now(UTC))
    for bucket in BUCKETS:
        client.create_bucket(Bucket=bucket)
    return S3(boto3.Session("testing", "testing", region_name="us-east-1"), client)  # type: ignore[arg-type]
