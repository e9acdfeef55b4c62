from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.servers.moto import moto_server
from tests.unit.localaws.healthlake.transformation.desk import Desk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture(scope="package")
def s3_endpoint() -> Iterator[str]:
    with moto_server() as url:
        client = boto3.client("s3", region_name="us-east-1", endpoint_url=url)
        for bucket in ("documents", "converted"):
            client.create_bucket(Bucket=bucket)
        yield url


@pytest.fixture
def desks(tmp_path: Path, executor: ThreadPoolExecutor, s3_endpoint: str) -> Iterator[Callable[..., Desk]]:
    """Make a desk with S3; each one on the same state file."""
    made: list[Desk] = []
    client = boto3.client("s3", region_name="us-east-1", endpoint_url=s3_endpoint)

    def make(**arguments: Any) -> Desk:
        made.append(Desk(tmp_path / "state.db", executor, client, s3_endpoint=s3_endpoint, **arguments))
        return made[-1]

    yield make
    for desk in made:
        desk.state.close()


@pytest.fixture
def desk(desks: Callable[..., Desk]) -> Desk:
    return desks()
