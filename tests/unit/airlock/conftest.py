"""What the stages need of the outside: an S3 server, and a ledger on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
import pytest

from airlock.ledger import Ledger
from airlock.storage.s3 import S3
from tests.servers.in_process import ask_in_process
from tests.servers.ledger import new_ledger
from tests.servers.moto import moto_server, reset_moto
from tests.unit.airlock.world import BUCKETS, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def s3_client(s3_server: str) -> S3:
    """One client for all tests; the buckets are each test's own."""
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    return S3(session, ask_in_process(session.client("s3", endpoint_url=s3_server)))


@pytest.fixture
def s3(s3_server: str, s3_client: S3) -> S3:
    reset_moto(s3_server)
    for bucket in BUCKETS:
        s3_client.client.create_bucket(Bucket=bucket)
    return s3_client


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(new_ledger(tmp_path / "ledger.db")) as ledger:
        yield ledger


@pytest.fixture
def world(s3: S3, ledger: Ledger) -> World:
    return World(s3, ledger)
