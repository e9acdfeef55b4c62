"""Headers are read with the credentials of the Airflow connection, whatever kind they are."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from airlock.dicom.fetch import Arrival, RangeReader
from airlock.dicom.ranged import Range
from airlock.pipelines import ParseSettings
from airlock_tasks.run import connect_s3
from tests.servers.faulty_s3 import FaultyS3, faulty_s3
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = b"header"


@pytest.fixture
def server() -> Iterator[FaultyS3]:
    with faulty_s3() as s3:
        s3.put("1.dcm", BODY)
        yield s3


def read(server: FaultyS3, monkeypatch: pytest.MonkeyPatch, **connection: Any) -> str:
    """Read an object with the connection, and return the access key that the request was signed with."""
    extra = {"region_name": "us-east-1", "service_config": {"s3": {"endpoint_url": server.endpoint}}}
    extra |= connection.pop("extra", {})
    monkeypatch.setenv("AIRFLOW_CONN_ARCHIVE", json.dumps({"conn_type": "aws", "extra": extra} | connection))
    reader = RangeReader(connect_s3("archive"), ParseSettings(retries=0))

    async def once() -> bytes:
        return await reader.read(Arrival("bucket", "1.dcm", None, "", len(BODY)), Range(0, len(BODY)))

    assert asyncio.run(once()) == BODY
    return server.requests[-1].access_key


def test_static_keys(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(server, monkeypatch, login="static", password="secret") == "static"


def test_a_profile(server: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[archive]\naws_access_key_id = profiled\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert read(server, monkeypatch, extra={"profile_name": "archive"}) == "profiled"


def test_an_assumed_role(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    role = {"role_arn": "arn:aws:iam::123456789012:role/archive"}
    with moto_server() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint)
        used = read(server, monkeypatch, login="static", password="secret", extra=role)
    assert used.startswith("ASIA")  # what STS gives; moto's are new each time
