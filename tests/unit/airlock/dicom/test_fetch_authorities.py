"""Behind a hospital's own certificate authority: obstore trusts the server that boto3 trusts."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

from airlock.dicom.fetch import Arrival, RangeReader, S3UnavailableError
from airlock.dicom.ranged import Range
from airlock.pipelines import ParseSettings
from airlock.storage.s3 import S3
from tests.servers.faulty_s3 import FaultyS3, faulty_s3
from tests.servers.network import certify_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = bytes(range(256)) * 8
BOTH = pytest.mark.parametrize("key", ["a/1.dcm", "a//1.dcm"], ids=["obstore", "boto3"])


@pytest.fixture(autouse=True)
def _no_other_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "authority.pem"


@pytest.fixture
def server(bundle: Path) -> Iterator[FaultyS3]:
    with faulty_s3(certify_loopback(bundle.parent)[1]) as s3:
        yield s3


def read(server: FaultyS3, key: str, verify: bool | str | None = None) -> bytes:
    """Return the first bytes of an object, through a client with ``verify`` of a connection."""
    session = boto3.Session("first", "secret", region_name="us-east-1")
    once = Config(retries={"total_max_attempts": 1})
    s3 = S3(session, session.client("s3", endpoint_url=server.endpoint, verify=verify, config=once))
    reader = RangeReader(s3, ParseSettings(retries=0))
    arrival = Arrival("bucket", key, None, server.put(key, BODY), len(BODY))

    async def once_only() -> bytes:
        return await reader.read(arrival, Range(0, 1024))

    return asyncio.run(once_only())


@BOTH
@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_the_authority_of_the_environment_is_trusted(
    server: FaultyS3, bundle: Path, key: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(bundle))
    assert read(server, key) == BODY[:1024]


@BOTH
def test_the_authority_of_the_connection_is_trusted(server: FaultyS3, bundle: Path, key: str) -> None:
    assert read(server, key, verify=str(bundle)) == BODY[:1024]


def test_an_image_without_authorities_of_its_own_trusts_those_that_boto3_brings(
    server: FaultyS3, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore could not start there, and boto3 read every header, a few at a time, without a word in the log."""
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    monkeypatch.setattr("botocore.httpsession.where", lambda: str(bundle))  # certifi's file
    monkeypatch.setattr("airlock.dicom.fetch._get", lambda *_: pytest.fail("read by boto3"))
    assert read(server, "a/1.dcm") == BODY[:1024]


def test_a_folder_of_authorities_is_read_whole(server: FaultyS3, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / "hospital.pem").write_bytes(bundle.read_bytes())
    (folder / "README").write_text("no certificate")
    assert read(server, "a/1.dcm", verify=str(folder)) == BODY[:1024]


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@BOTH
def test_a_connection_that_trusts_any_certificate_does_so_for_headers_too(server: FaultyS3, key: str) -> None:
    assert read(server, key, verify=False) == BODY[:1024]


@BOTH
def test_an_unknown_authority_is_refused_with_the_variable_to_set(server: FaultyS3, key: str) -> None:
    with pytest.raises(S3UnavailableError, match="name the certificate authority in AWS_CA_BUNDLE"):
        read(server, key)


@pytest.mark.parametrize(
    "content", [None, "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_without_certificates_ends_the_task(server: FaultyS3, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "wrong.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(S3UnavailableError, match=r"wrong\.pem is not a file .* Correct AWS_CA_BUNDLE"):
        read(server, "a/1.dcm", verify=str(path))
