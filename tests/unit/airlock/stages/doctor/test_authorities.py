"""Behind a hospital's own certificate authority the doctor says which variable names it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ConnectTimeoutError, ProxyConnectionError

from airlock.stages.doctor.attempts import make_checks
from airlock.stages.doctor.findings import Finding, Result
from airlock.stages.doctor.machine import list_checks
from airlock_cli.airflow_connections import GivenConnection
from airlock_cli.aws_access import ConnectionAccess
from tests.servers.copying_s3 import copying_s3
from tests.servers.network import certify_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.airlock.stages.doctor.account import Account


@pytest.fixture(autouse=True)
def _no_other_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "authority.pem"


@pytest.fixture
def endpoint(bundle: Path) -> Iterator[str]:
    with copying_s3(certify_loopback(bundle.parent)[1]) as server:
        yield server.endpoint


def look(account: Account, endpoint: str, **extra: str) -> dict[str, Finding]:
    """Return what the checks of the machine find, through a connection to a server with TLS."""
    given = GivenConnection(
        "aws", "testing", "testing", extra={"endpoint_url": endpoint, "region_name": "us-east-1"} | extra
    )
    access = ConnectionAccess(given)
    world = replace(account.world(), connect=lambda _: access)
    checks = [replace(check, needs=()) for check in list_checks(world)]  # they need that the connection is defined
    return {check.name: finding for check, finding in make_checks(checks, 10)}


def test_an_unknown_authority_fails_and_other_checks_point_to_it(account: Account, endpoint: str) -> None:
    found = look(account, endpoint)
    assert found["machine.authorities"].result is Result.FAIL
    assert "AWS_CA_BUNDLE" in found["machine.authorities"].fix
    assert found["machine.clock"].result is Result.WARN
    assert found["machine.clock"].fix == "First cure: machine.authorities."


@pytest.mark.parametrize("named_in", ["environment", "connection"])
def test_an_authority_that_is_named_is_trusted(
    account: Account, endpoint: str, bundle: Path, named_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"verify": str(bundle)} if named_in == "connection" else {}
    if named_in == "environment":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    assert look(account, endpoint, **extra)["machine.authorities"].result is Result.PASS


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_certificates_fails(
    account: Account, endpoint: str, tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wrong.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    found = look(account, endpoint)["machine.authorities"]
    assert found.result is Result.FAIL
    assert "AWS_CA_BUNDLE" in found.fix


@pytest.mark.parametrize("error", [ConnectTimeoutError, ProxyConnectionError])
def test_a_network_that_gives_no_answer_is_not_taken_for_a_wrong_file(
    account: Account, error: type[ConnectTimeoutError | ProxyConnectionError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error(endpoint_url="https://s3.example", proxy_url="http://proxy.example:3128")

    monkeypatch.setattr("airlock.stages.doctor.machine._ask_s3", fail)
    checks = [replace(check, needs=()) for check in list_checks(account.world())]
    found = {check.name: finding for check, finding in make_checks(checks, 10)}["machine.authorities"]
    assert found.result is Result.WARN
    assert "AWS does not answer" in found.found
    assert "network" in found.fix
