"""The command line as a person calls it, on a ledger of either kind and a real S3."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import boto3
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from airlock.ledger import Ledger
from airlock.ledger.gates import GATES
from airlock.records import CONTRACTS, study_key
from airlock_cli.app import app
from tests.markdown import ROOT
from tests.servers.moto import moto_server, reset_moto
from tests.servers.postgres import postgres_server, postgres_url
from tests.unit.airlock.ledger.conftest import postgres_ledger, shared_postgres_ledger, url
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, dispositions, uids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from typer.testing import Result

__all__ = ["postgres_ledger", "postgres_server", "postgres_url", "shared_postgres_ledger", "url"]
STUDY = "1.study"
CONTRACT = """{"schema": "airlock.study/1", "PatientName": "CANARY^NAME", "PatientID": "CANARY-ID",
 "NumberOfStudyRelatedInstances": 1, "series": [{"image_set_ids": ["image-set"], "instances": []}],
 "fhir": {"datastore_id": "lake", "Patient": "Patient/p", "ImagingStudy": "ImagingStudy/s", "Endpoint": ["Endpoint/e"]}}
"""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's own environment may tell the command where things are."""
    for name in os.environ:
        if name.startswith(("AIRLOCK_", "AIRFLOW", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture
def airlock() -> Callable[..., Result]:
    """Call ``airlock`` with these arguments; no command may end with a traceback."""

    def call(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments), prog_name="airlock")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def told(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger that the environment names: a study is held, since a file of it, with a hostile key, is quarantined."""
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", url)
    with Ledger.open(url) as ledger:
        begin(ledger, "a")
        ledger.claim(NIGHTLY, "a", arrivals("good", HOSTILE))
        for name, word, reason in (("good", "held", "study_incomplete"), (HOSTILE, "quarantined", "truncated")):
            rows = dispositions(name, word=word).with_columns(reason=pl.lit(reason), detail=pl.lit("\x9b31mred\n[b]"))
            ledger.settle(NIGHTLY, "a", rows)
        gate = (STUDY, study_key(STUDY), "hold", "study_incomplete")
        ledger.record_gates(STORE, "a", pl.DataFrame([gate], schema=GATES, orient="row"))
        contract = pl.DataFrame([(STUDY, study_key(STUDY), 1, "digest", CONTRACT)], schema=CONTRACTS, orient="row")
        ledger.revise_contracts(STORE, "a", uids(STUDY), lambda _: contract)
        yield ledger


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe [red]markup[/red]"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An S3 that boto3's own chain finds, with the workspace's bucket and nothing of the tests before."""
    reset_moto(s3_server)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="airlock-workspace")
    return client


@pytest.fixture
def pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one good pipeline, nightly."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    content = yaml.safe_load((ROOT / "include/pipelines/sample.yaml").read_text())
    (folder / "nightly.yaml").write_text(yaml.safe_dump(content | {"name": NIGHTLY}))
    monkeypatch.setenv("AIRLOCK_PIPELINES", str(folder))
    return folder


@pytest.fixture
def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
