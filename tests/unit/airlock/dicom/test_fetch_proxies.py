"""Behind a hospital's proxy: headers are read by the same way as boto3's requests."""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from airlock.dicom.fetch import Arrival, RangeReader, S3UnavailableError
from airlock.dicom.ranged import Range
from airlock.pipelines import ParseSettings
from airlock.storage.s3 import S3
from tests.servers.faulty_s3 import FaultyS3, faulty_s3
from tests.servers.network import ForwardProxy, certify_loopback, forward_proxy
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = bytes(range(256)) * 8
BOTH = pytest.mark.parametrize("key", ["a/1.dcm", "a//1.dcm"], ids=["obstore", "boto3"])
_NETWORK = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """An S3 under the hospital's authority, which the environment names; the environment names no proxy."""
    for name in _NETWORK:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    bundle, context = certify_loopback(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with faulty_s3(context) as s3:
        yield s3


@pytest.fixture
def proxy() -> Iterator[ForwardProxy]:
    with forward_proxy() as running:
        yield running


def read(server: FaultyS3, key: str = "a/1.dcm", **config: Any) -> bytes:
    """Return the first bytes of an object, through a client with ``config_kwargs`` of a connection."""
    session = boto3.Session("first", "secret", region_name="us-east-1")
    once = Config(retries={"total_max_attempts": 1}, **config)
    with closing(session.client("s3", endpoint_url=server.endpoint, config=once)) as client:
        reader = RangeReader(S3(session, client), ParseSettings(retries=0))
        arrival = Arrival("bucket", key, None, server.put(key, BODY), len(BODY))

        async def once_only() -> bytes:
            return await reader.read(arrival, Range(0, 1024))

        return asyncio.run(once_only())


def address(server: FaultyS3) -> str:
    return server.endpoint.removeprefix("https://")


@BOTH
def test_the_proxy_of_the_connection_is_used(server: FaultyS3, proxy: ForwardProxy, key: str) -> None:
    assert read(server, key, proxies={"https": proxy.url}) == BODY[:1024]
    assert set(proxy.tunnels) == {address(server)}
    assert all(one.key == key for one in server.requests)


@BOTH
def test_the_proxy_of_the_environment_is_used(
    server: FaultyS3, proxy: ForwardProxy, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    assert read(server, key) == BODY[:1024]
    assert set(proxy.tunnels) == {address(server)}


def test_the_headers_themselves_go_through_the_proxy(server: FaultyS3, proxy: ForwardProxy) -> None:
    """obstore and boto3, which asks for the Region, have a tunnel each."""
    read(server, proxies={"https": proxy.url})
    assert len(proxy.tunnels) == 2


@BOTH
def test_a_proxy_may_ask_for_a_name_and_a_password(server: FaultyS3, proxy: ForwardProxy, key: str) -> None:
    named = proxy.url.replace("//", "//airlock:s%40crt@")
    assert read(server, key, proxies={"https": named}) == BODY[:1024]
    assert set(proxy.authorizations) == {"Basic YWlybG9jazpzQGNydA=="}


def test_a_proxy_without_a_scheme_is_one_of_http(server: FaultyS3, proxy: ForwardProxy) -> None:
    assert read(server, proxies={"https": proxy.url.removeprefix("http://")}) == BODY[:1024]
    assert len(proxy.tunnels) == 2


@BOTH
@pytest.mark.parametrize("excluded", ["127.0.0.1", "*"])
def test_an_address_of_no_proxy_is_reached_directly(
    server: FaultyS3, proxy: ForwardProxy, key: str, excluded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", excluded)
    assert read(server, key) == BODY[:1024]
    assert proxy.tunnels == []


@BOTH
def test_the_connection_can_switch_the_proxy_of_the_environment_off(
    server: FaultyS3, proxy: ForwardProxy, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    assert read(server, key, proxies={}) == BODY[:1024]
    assert proxy.tunnels == []


@BOTH
def test_a_proxy_with_a_certificate_of_its_own_authority_is_trusted(server: FaultyS3, tmp_path: Path, key: str) -> None:
    own = tmp_path / "proxy"
    own.mkdir()
    bundle, context = certify_loopback(own)
    with forward_proxy(context) as proxy:
        settings = {"proxy_ca_bundle": str(bundle)}
        assert read(server, key, proxies={"https": proxy.url}, proxies_config=settings) == BODY[:1024]
        assert set(proxy.tunnels) == {address(server)}


def test_a_setting_that_only_boto3_knows_makes_boto3_read_all_with_a_warning(
    server: FaultyS3, proxy: ForwardProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "airlock.dicom.fetch")
    settings = {"proxy_client_cert": "/no/such/file", "proxy_ca_bundle": None}
    assert read(server, proxies={}, proxies_config=settings) == BODY[:1024]
    (warning,) = caplog.messages
    assert "boto3 reads all headers, 5 at a time" in warning
    assert "proxy_client_cert" in warning


def test_a_proxy_that_does_not_answer_ends_the_task(server: FaultyS3) -> None:
    with pytest.raises(S3UnavailableError, match="then clear the task"):
        read(server, proxies={"https": f"http://airlock:CANARY@127.0.0.1:{free_port()}"})


def test_a_wrong_proxy_ends_the_task_without_its_password(server: FaultyS3) -> None:
    with pytest.raises(S3UnavailableError, match=r"Or the proxy is not an address .* Correct HTTPS_PROXY") as refused:
        read(server, proxies={"https": "http://airlock:CANARY@[proxy"})
    assert "CANARY" not in str(refused.value)


def test_a_file_without_the_proxys_certificates_ends_the_task(
    server: FaultyS3, proxy: ForwardProxy, tmp_path: Path
) -> None:
    settings = {"proxy_ca_bundle": str(tmp_path / "none.pem")}
    with pytest.raises(S3UnavailableError, match="its proxy_ca_bundle not a file of certificates"):
        read(server, proxies={"https": proxy.url}, proxies_config=settings)
