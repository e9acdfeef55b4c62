"""What ``make run`` does around the DAG run: nothing of a delivery reaches a server that is not the stack's own."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import NoCredentialsError

from airlock_local import stack as stack_module
from airlock_local.buckets import local_client, make_buckets
from airlock_local.choice import choose
from airlock_local.components import Plan
from airlock_local.deliver import SourceError
from airlock_local.run import _check_bucket, _fetch_report, deliver, run
from airlock_local.settings import ROOT, read_settings
from airlock_local.stack import PortInUseError, Stack, StackError
from tests.servers.foreign import Foreign, foreign_server
from tests.servers.moto import moto_server
from tests.unit.airlock_local.test_stack import free_port, server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock_local.settings import Settings


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    with foreign_server() as listener:
        yield listener


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    folder = tmp_path / "patients"
    folder.mkdir()
    (folder / "DOE^JANE.dcm").write_bytes(b"of a patient")
    return folder


@contextmanager
def stack_of(tmp_path: Path, **ports: int) -> Iterator[Settings]:
    """Give the settings of a stack in a folder of its own; what runs at the end is stopped."""
    names = ("API", "S3", "HEALTH")
    numbers = {f"AIRLOCK_{name}_PORT": str(ports.get(name.lower()) or free_port()) for name in names}
    settings = read_settings({"AIRLOCK_VAR": str(tmp_path / "var"), **numbers})
    try:
        yield settings
    finally:
        Stack(settings).down()


@pytest.mark.parametrize("part", ["s3", "health", "api"])
def test_a_foreign_program_on_a_port_gets_neither_buckets_nor_files(
    tmp_path: Path, foreign: Foreign, patients: Path, part: str
) -> None:
    with stack_of(tmp_path, **{part: foreign.port}) as settings:
        with pytest.raises(PortInUseError, match=f"Port {foreign.port} .* is used by another program"):
            run(settings, "sample", str(patients), os.environ)
        assert Stack(settings).status() == {}
    assert foreign.asked == []


def test_what_is_up_is_ready_only_when_every_missing_part_has_its_port(tmp_path: Path, foreign: Foreign) -> None:
    """The local S3 of a run before is ours, yet nothing is delivered to a stack that cannot come up."""
    ready: list[str] = []
    with stack_of(tmp_path) as settings:
        s3 = server("s3")
        Stack(settings).up(Plan((s3,), ()))
        with pytest.raises(PortInUseError):
            Stack(settings, on_ready=ready.append).up(Plan((s3, server("api", port=foreign.port)), ()))
    assert ready == []
    assert foreign.asked == []


def test_a_program_that_takes_the_port_after_the_check_sees_no_request_either(
    tmp_path: Path, foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "READY_WITHIN", 1.0)
    monkeypatch.setattr(stack_module, "_check_ports", lambda _: None)
    silent = server(port=foreign.port, code="import time; time.sleep(60)")
    with stack_of(tmp_path) as settings, pytest.raises(StackError, match="was not ready within 1 s"):
        Stack(settings).up(Plan((silent,), ()))
    assert foreign.asked == []


def test_a_run_without_a_report_leaves_the_list_of_the_run_before(tmp_path: Path) -> None:
    settings = read_settings({"AIRLOCK_VAR": str(tmp_path / "var")})
    choice = choose(settings.pipelines, "sample", "", {})
    audit = "runs/sample/{}/audit/{}"
    with moto_server() as endpoint:
        client = local_client(endpoint)
        make_buckets(client, choice.buckets())
        for name, body in (("report.json", b'{"arrivals": 1}'), ("report.html", b""), ("dispositions.csv", b"key")):
            client.put_object(Bucket="airlock-workspace", Key=audit.format("first", name), Body=body)
        assert _fetch_report(settings, client, choice, settings.var / "reports/first") == {"arrivals": 1}
        assert _fetch_report(settings, client, choice, settings.var / "reports/failed") is None
    assert sorted(path.name for path in settings.var.iterdir()) == ["dispositions.csv", "reports"]


def test_missing_credentials_are_said_and_no_right_is_blamed(tmp_path: Path) -> None:
    class WithoutCredentials:
        def list_objects_v2(self, **_: object) -> None:
            raise NoCredentialsError

    choice = choose(ROOT / "include/pipelines", "sample", "", {})
    with pytest.raises(SourceError, match="has no AWS credentials") as told:
        _check_bucket(WithoutCredentials(), choice)
    assert "ListBucket" not in str(told.value)


def test_a_delivery_without_a_run_needs_a_folder(tmp_path: Path) -> None:
    with (
        stack_of(tmp_path) as settings,
        pytest.raises(SourceError, match="make deliver uploads a folder"),
    ):
        deliver(settings, "sample", "s3://airlock-archive/deliveries/x/", os.environ)
