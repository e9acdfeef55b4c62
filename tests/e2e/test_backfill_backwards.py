"""Airflow's own backfill of clinical exports, run backwards after a night: patient and allergy stay the newest.

Airflow keeps its metadata in PostgreSQL here, for the reason in `test_backfill_month`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ledger import Ledger
from airlock.pipelines import ClinicalPipeline, load_pipelines
from airlock.run import run_key
from airlock_local.environment import airflow_variables, read_secrets
from airlock_tasks.datastores import fhir_store
from tests.clinical_files import allergy, ndjson, observation, patient
from tests.e2e.conftest import _pipeline, free_ports, imaging_pipeline, stopped_after, until
from tests.servers.postgres import postgres_server, postgres_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from pathlib import Path

    from tests.e2e.conftest import Machine

__all__ = ["postgres_server", "postgres_url"]  # fixtures
pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(1800)]

DAG = "exports"
TODAY = datetime.now(UTC).date()
NIGHT = TODAY - timedelta(days=1)
OLD = [TODAY - timedelta(days=ago) for ago in (12, 11, 10)]  # before what a night looks back to
GENDERS = dict(zip((*OLD, NIGHT), ("other", "female", "male", "unknown"), strict=True))
GRAVITIES = dict(zip((*OLD, NIGHT), ("low", "high", "low", "unable-to-assess"), strict=True))
ORDERED = ("Patient/p1", "AllergyIntolerance/a1")


@pytest.fixture
def machine(postgres_url: str, first_folder: Path, tmp_path: Path) -> Iterator[Machine]:
    """A stack of its own, after a newcomer's first make run."""
    (tmp_path / "pipelines").mkdir()
    imaging_pipeline(tmp_path / "pipelines", "first", "1", healthlake=None, receive={"quiet_seconds": 0})
    _pipeline(
        tmp_path / "pipelines",
        "clinical",
        DAG,
        source={"window": "key_date"},
        schedule={"cron": "0 0 * * *", "start_date": f"{TODAY - timedelta(days=30)}"},
    )
    with stopped_after(tmp_path, *free_ports(3), AIRLOCK_METADATA_URL=postgres_url) as made:
        done = made.make_run(first_folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield made


def deliver(machine: Machine, day: date) -> None:
    """Deliver a day's export: the patient and an allergy, which are in all, and an observation of its own."""
    told: dict[str, Any] = {"meta": {"lastUpdated": f"{day}T12:00:00Z"}}
    files = {
        "Patient.ndjson": ndjson(patient(gender=GENDERS[day], **told)),
        "AllergyIntolerance.ndjson": ndjson(allergy(criticality=GRAVITIES[day], **told)),
        "Observation.ndjson": ndjson(observation(f"o-{day}", **told)),
    }
    machine.put(files, f"{DAG}/{day:%Y/%m/%d}/")


def runs(machine: Machine, kind: str, number: int) -> list[dict[str, Any]] | None:
    """Return the runs of a kind in the order of their starts, None until so many have ended."""
    with machine.api() as api:
        every = api._call("GET", f"/api/v2/dags/{DAG}/dagRuns?limit=100")["dag_runs"]
    found = [run for run in every if run["run_type"] == kind and run["state"] in {"success", "failed"}]
    return sorted(found, key=lambda run: str(run["start_date"])) if len(found) == number else None


def words(machine: Machine, run: dict[str, Any]) -> dict[str, int]:
    assert run["state"] == "success"
    return dict(machine.report(DAG, run_key(DAG, run["dag_run_id"]))["dispositions"])


def test_three_old_days_backwards_after_a_night(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (*OLD, NIGHT):
        deliver(machine, day)
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(DAG))
        api.unpause(DAG)
    (night,) = until("the night ends", lambda: runs(machine, "scheduled", 1), 600)
    assert words(machine, night) == {"released": 3}

    done = machine.airflow(
        *("backfill", "create", "--dag-id", DAG, "--from-date", str(OLD[0]), "--to-date", str(OLD[-1])),
        *("--max-active-runs", "1", "--run-backwards"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    backfilled = until("the backfill ends", lambda: runs(machine, "backfill", len(OLD)), 900)
    assert [run["data_interval_start"][:10] for run in backfilled] == [str(day) for day in reversed(OLD)]
    assert [words(machine, run) for run in backfilled] == [{"released": 1, "ignored": 2}] * 3

    connection = "AIRFLOW_CONN_AWS_DEFAULT"
    monkeypatch.setenv(connection, airflow_variables(machine.settings, read_secrets(machine.settings))[connection])
    pipeline = load_pipelines(machine.settings.pipelines)[0][DAG]
    assert isinstance(pipeline, ClinicalPipeline)
    store = fhir_store(pipeline.healthlake)
    found = {name: store.read(*name.split("/")) or {} for name in ORDERED}
    assert found["Patient/p1"]["gender"] == GENDERS[NIGHT]
    assert found["AllergyIntolerance/a1"]["criticality"] == GRAVITIES[NIGHT]
    assert {resource["meta"]["versionId"] for resource in found.values()} == {"1"}

    with Ledger.open(machine.settings.ledger_url) as ledger:
        keys = pl.DataFrame(
            [name.split("/") for name in ORDERED], schema=["resource_type", "resource_id"], orient="row"
        )
        contents = ledger.contents_of(pipeline.datastore_id, keys)
    known = dict(zip(sorted(ORDERED), contents["known_digest"], strict=True))
    sent = sorted(machine.contracts("clinical/"), key=lambda contract: contract["revision"])
    assert [contract["revision"] for contract in sent] == [1, 2, 3, 4]
    for contract in sent:
        told = {resource["reference"]: resource["content_digest"] for resource in contract["resources"]}
        assert {name: told[name] for name in ORDERED} == known
    assert len(sent[-1]["resources"]) == 6
