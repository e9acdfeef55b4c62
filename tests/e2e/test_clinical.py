"""A clinical delivery on the real scheduler, its import task killed on the way: one job, balanced books, no leak."""

from __future__ import annotations

import csv
import io
import sqlite3
from typing import TYPE_CHECKING

import pytest

from airlock.pipelines import ClinicalPipeline, load_pipelines
from airlock.run import run_key
from airlock_local.environment import airflow_variables, read_secrets
from airlock_tasks.datastores import fhir_store
from tests.clinical_files import ndjson, observation, packed, patient, transaction
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]

START = "StartFHIRImportJob"
ID, NAME, VALUE = "canary-record-77", "Canaryfamily", "CANARY-MRN-77"
WHO = {"identifier": [{"system": "urn:oid:1.2.3.4", "value": VALUE}], "name": [{"family": NAME, "given": ["Test"]}]}
FILES = {
    "Patient.ndjson": ndjson(patient(ID, **WHO), patient(f"{ID}-b", gender=VALUE, **WHO)),
    "Observation.ndjson.gz": packed(
        *(observation(f"{ID}-{number}", of=ID, note=[{"text": NAME}]) for number in range(5)),
        observation(f"{ID}-heavy", of=ID, valueQuantity={"value": VALUE}),
        f'{{"resourceType":"Patient","id":"{ID}',
    ),
    "visit.json": transaction(patient(f"{ID}-c", **WHO), observation(f"{ID}-c", of=f"{ID}-c")),
}
RELEASED = [("Patient", ID), ("Patient", f"{ID}-c"), ("Observation", f"{ID}-c")]
RELEASED += [("Observation", f"{ID}-{number}") for number in range(5)]
ENDS = {
    f"Patient/{ID}-b": ("failed", "rejected"),
    f"Observation/{ID}-heavy": ("quarantined", "invalid_resource"),
    "/": ("quarantined", "not_json"),
}


@pytest.fixture(scope="module")
def run(machine: Machine) -> str:
    """A run over the delivery, whose import is killed between the call and its answer; the run's id."""
    machine.put(FILES, "records/")
    before = machine.calls(START)
    machine.faults({"kind": "slow_responses", "operation": START, "seconds": 6, "times": 1})
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag("records"))
        api.unpause("records")
        started = api.trigger("records", {})
    until("the call is on its way", lambda: machine.remaining_faults() == [0])
    assert machine.kill_task() >= 1
    with machine.api() as api:
        state = until("the run ends", lambda: (s := api.run_state("records", started)) in {"success", "failed"} and s)
    assert state == "success"
    assert machine.calls(START) == before + 2  # asked twice, by one token
    return started


def audited(machine: Machine, run: str, name: str) -> bytes:
    key = f"runs/records/{run_key('records', run)}/audit/{name}"
    return machine.s3().get_object(Bucket="airlock-workspace", Key=key)["Body"].read()


def test_the_killed_import_has_one_job_and_the_books_balance(machine: Machine, run: str) -> None:
    report = machine.report("records", run_key("records", run))
    assert report["balanced"]
    assert report["dispositions"] == {"released": 8, "failed": 1, "quarantined": 2}
    assert len(machine.jobs(run_key("records", run), "healthlake")) == 1


def test_what_is_not_released_has_its_reason(machine: Machine, run: str) -> None:
    rows = csv.DictReader(io.StringIO(audited(machine, run, "dispositions.csv").decode()))
    ends = {f"{row['resource_type']}/{row['resource_id']}": (row["disposition"], row["reason"]) for row in rows}
    assert ends == ENDS


def test_released_resources_are_in_the_data_store_once(
    machine: Machine, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run
    connection = "AIRFLOW_CONN_AWS_DEFAULT"
    monkeypatch.setenv(connection, airflow_variables(machine.settings, read_secrets(machine.settings))[connection])
    pipeline = load_pipelines(machine.settings.pipelines)[0]["records"]
    assert isinstance(pipeline, ClinicalPipeline)
    store = fhir_store(pipeline.healthlake)
    for resource_type, name in RELEASED:
        found = store.read(resource_type, name)
        assert found
        assert found["meta"]["versionId"] == "1"
    assert store.read("Patient", f"{ID}-b") is None


def test_no_identifier_in_logs_or_in_anything_that_airflow_stores(machine: Machine, run: str) -> None:
    """Resource ids are identifiers too; XCom, rendered templates and task names all lie in Airflow's database."""
    canaries = [text.encode() for text in (ID, NAME, VALUE)]
    logs = [path for path in machine.settings.var.rglob("*") if path.suffix == ".log"]
    assert any(run_key("records", run).encode() in path.read_bytes() for path in logs)
    assert [path.name for path in logs if any(canary in path.read_bytes() for canary in canaries)] == []
    with sqlite3.connect(f"file:{machine.settings.airflow_home / 'airflow.db'}?mode=ro", uri=True) as database:
        dump = "\n".join(database.iterdump()).encode()
    assert b"dispositions_uri" in dump
    assert [canary for canary in canaries if canary in dump] == []
