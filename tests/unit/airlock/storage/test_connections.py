"""The way of a boto3 client to S3 is followed as far as aiohttp can go it."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.config import Config

from airlock.storage.connections import find_connection
from tests.servers.in_process import ask_in_process

URL = "https://s3.hospital.example/work/"
SESSION = boto3.Session("testing", "testing", region_name="us-east-1")


def client(**config: Any) -> Any:
    return SESSION.client("s3", endpoint_url="https://s3.hospital.example", config=Config(**config))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_timeouts_are_those_of_the_connection() -> None:
    found = find_connection(client(connect_timeout=3, read_timeout=7), URL)
    assert found is not None
    assert (found.connect_timeout, found.read_timeout) == (3, 7)
    assert (found.proxy, found.proxy_headers) == (None, None)


def test_no_proxy_keeps_hosts_off_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "hospital.example")
    found = find_connection(client(), URL)
    assert found is not None
    assert found.proxy is None


def test_a_proxy_with_a_certificate_of_its_own_is_left_to_boto3() -> None:
    proxies = {"https": "https://proxy.example:3128"}
    assert find_connection(client(proxies=proxies, proxies_config={"proxy_ca_bundle": "/ca.pem"}), URL) is None


def test_a_client_that_does_not_connect_by_urllib3_is_left_to_boto3() -> None:
    assert find_connection(ask_in_process(client()), URL) is None
