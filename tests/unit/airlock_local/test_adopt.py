"""A local stack whose ledger was removed goes on, and says what its data stores still hold."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ledger import Ledger, StoreOrigin, upgrade
from airlock_local.adopt import adopt_stores
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from localaws.server import serve
from localaws.settings import Seed
from tests.chain import DATASTORE, RECORDS, clinical_pipeline, pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    upgrade(ledger)
    seeds = {"datastore": (Seed(DATASTORE, "test"),), "healthlake_datastore": (Seed(RECORDS, "test"),)}
    with serve(s3_endpoint="http://127.0.0.1:1", **seeds) as emulator:
        extra = {"region_name": "us-east-1", "service_config": {"healthlake": {"endpoint_url": emulator}}}
        extra["config_kwargs"] = {"inject_host_prefix": False}
        connection = {"conn_type": "aws", "login": "testing", "password": "testing", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        yield SimpleNamespace(health_url=emulator, ledger_url=ledger)


def test_a_fresh_stack_needs_no_step_and_says_nothing(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for line in (pipeline(), clinical_pipeline()):
        adopt_stores(settings, line)
    assert capsys.readouterr().out == ""
    with Ledger.open(settings.ledger_url) as ledger:
        assert ledger.find_store(RECORDS) is None


def test_what_the_emulator_has_kept_is_adopted_once(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    store = HealthLakeFhirHook(RECORDS, aws_conn_id="aws_default", region_name="us-east-1")
    for number in range(2):
        store.update({"resourceType": "Patient", "id": f"p{number}"})
    for _ in range(2):
        adopt_stores(settings, clinical_pipeline())
    told = capsys.readouterr().out
    assert told.count("2 were adopted as foreign") == 1
    assert "make clean" in told
    with Ledger.open(settings.ledger_url) as ledger:
        known = ledger.find_store(RECORDS)
        assert known is not None
        assert known.origin is StoreOrigin.ADOPTED
