"""Without credentials or a Region nothing of AWS is checked, and nothing passes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from airlock.stages.doctor.attempts import make_checks
from airlock.stages.doctor.examination import SECONDS, list_checks
from airlock.stages.doctor.findings import Result
from airlock.stages.doctor.identity import describe_arn
from airlock_cli.airflow_connections import GivenConnection
from airlock_cli.aws_access import ConnectionAccess
from tests.servers.ports import free_port
from tests.unit.airlock.stages.doctor.account import Account, connection_of, not_passed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.doctor.world import Caller

_OF_AWS = ("bucket.", "datastore.", "role.", "rights.", "key.", "arrivals.queue")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let boto3's own chain find nothing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def examine_by(account: Account, given: GivenConnection, names: tuple[str, ...] = ("",)) -> dict[str, Any]:
    access = ConnectionAccess(given)
    world = replace(account.world(), connect=lambda _: access)
    checks = [one for one in list_checks(world) if one.name.startswith(names)]
    return {check.id: finding for check, finding in make_checks(checks, SECONDS)}


def test_without_credentials_only_the_identity_fails(
    account: Account, endpoints: tuple[str, str], bare: pytest.MonkeyPatch
) -> None:
    extra = {name: value for name, value in connection_of(*endpoints).extra.items() if name != "role_arn"}
    found = examine_by(account, GivenConnection("aws", extra=extra))
    told = not_passed(found)
    assert told["identity.caller hospital"] is Result.FAIL
    assert {result for name, result in told.items() if name.startswith(_OF_AWS)} == {Result.NOT_MADE}
    assert [name for name in found if name.startswith(_OF_AWS) and name not in told] == []


def test_without_a_region_data_stores_cannot_be_reached(
    account: Account, endpoints: tuple[str, str], bare: pytest.MonkeyPatch
) -> None:
    extra = {name: value for name, value in connection_of(*endpoints).extra.items() if name == "endpoint_url"}
    found = examine_by(account, GivenConnection("aws", "testing", "testing", extra=extra))
    assert found["identity.region hospital"].result is Result.FAIL


def test_an_account_that_cannot_be_reached_is_a_warning_and_never_a_pass(account: Account) -> None:
    extra = {"region_name": "us-east-1", "endpoint_url": f"http://127.0.0.1:{free_port()}"}
    given = GivenConnection("aws", "testing", "testing", extra=extra)
    found = examine_by(account, given, ("connection.defined", "identity.caller", "bucket.exists"))
    assert {one.result for name, one in found.items() if not name.startswith("connection.")} == {Result.WARN}
    assert len(found) > 5


class Unassumable:
    """A connection whose role refuses it."""

    def __init__(self, operation: str) -> None:
        self.operation = operation

    def caller(self) -> Caller:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "CANARY"}}, self.operation)


@pytest.mark.parametrize("operation", ["AssumeRole", "AssumeRoleWithWebIdentity"])
def test_a_role_that_the_connection_may_not_assume_is_a_failure(account: Account, operation: str) -> None:
    access: Any = Unassumable(operation)
    (check,) = (
        one for one in list_checks(replace(account.world(), connect=lambda _: access)) if one.name == "identity.caller"
    )
    ((_, found),) = make_checks([replace(check, needs=())], SECONDS)
    assert found.result is Result.FAIL
    assert "assume its role (AccessDenied)" in found.found


def test_a_profile_that_does_not_exist_is_a_failure(account: Account, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("AWS_PROFILE", "nobody")
    given = GivenConnection("aws", extra={"region_name": "us-east-1"})
    found = examine_by(account, given, ("connection.defined", "identity."))
    assert not_passed(found)["identity.caller hospital"] is Result.FAIL
    assert "cannot be read (ProfileNotFound)" in found["identity.caller hospital"].found


@pytest.mark.parametrize(
    ("arn", "told"),
    [
        (
            "arn:aws:sts::1:assumed-role/Sso/jane.doe@hospital.example",
            "role Sso of account 1",
        ),
        ("arn:aws:iam::1:user/path/airlock", "user airlock of account 1"),
        ("arn:aws:iam::1:root", "the root user of account 1"),
    ],
)
def test_a_caller_is_described_without_the_name_of_a_session(arn: str, told: str) -> None:
    assert describe_arn(arn) == told
