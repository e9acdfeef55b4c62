"""Images and records meet in one Patient on the real scheduler: what matches, what does not, and who comes late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airlock.pipelines import ImagingPipeline, load_pipelines
from airlock.records import subject_key
from airlock.run import run_key
from airlock_local.environment import airflow_variables, read_secrets
from airlock_tasks.datastores import fhir_store
from tests.clinical_files import ndjson, patient
from tests.dicom_files import ct, study_uid
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
    from tests.e2e.conftest import Machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.proof,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("first_run"),
]

LAKE = "b" * 32
SYSTEM = "urn:oid:1.2.3.4"
BORN = {"PatientBirthDate": "19610412", "PatientSex": "O"}
OUTCOMES = {1: "matched", 2: "none", 3: "ambiguous", 4: "unguarded", 5: "contradicted", 6: "none"}


def who(name: str, number: int, **changes: Any) -> dict[str, Any]:
    """Return a Patient of the EHR with the number of a study of these files."""
    return patient(name, identifier=[{"system": SYSTEM, "value": f"PID-{number}"}], **changes)


def order(name: str, number: int, of: str) -> dict[str, Any]:
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
    return {
        "resourceType": "ServiceRequest",
        "id": name,
        "identifier": [{"type": kind, "value": f"ACC-{number}"}],
        "status": "active",
        "intent": "order",
        "authoredOn": "2026-02-27",
        "subject": {"reference": f"Patient/{of}"},
    }


def run(machine: Machine, pipeline: str) -> dict[str, Any]:
    """Let the scheduler run a pipeline, and return its report."""
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(pipeline))
        api.unpause(pipeline)
        started = api.trigger(pipeline, {})
        state = until("the run ends", lambda: (s := api.run_state(pipeline, started)) in {"success", "failed"} and s)
    assert state == "success"
    return machine.report(pipeline, run_key(pipeline, started))


@pytest.fixture
def lake(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> HealthLakeFhirHook:
    connection = "AIRFLOW_CONN_AWS_DEFAULT"
    monkeypatch.setenv(connection, airflow_variables(machine.settings, read_secrets(machine.settings))[connection])
    pipeline = load_pipelines(machine.settings.pipelines)[0]["meets"]
    assert isinstance(pipeline, ImagingPipeline)
    assert pipeline.healthlake is not None
    return fhir_store(pipeline.healthlake)


def latest(machine: Machine) -> dict[str, dict[str, Any]]:
    """Return the newest contract of each study that was routed, by StudyInstanceUID."""
    found = sorted(machine.contracts("meets/"), key=lambda one: one["revision"])
    return {one["StudyInstanceUID"]: one for one in found}


def count_wrong(lake: HealthLakeFhirHook, contracts: dict[str, dict[str, Any]], expected: dict[int, str]) -> int:
    """Return how many studies refer to another Patient, in contract or data store, than they should."""
    wrong = 0
    for number, outcome in OUTCOMES.items():
        contract = contracts.get(study_uid(number))
        if contract is None:
            wrong += outcome != "contradicted"
            continue
        study = lake.read(*contract["fhir"]["ImagingStudy"].split("/"))
        subject = study and study["subject"]["reference"]
        existing = {f"Patient/{name}" for name in ("one", "twin-a", "twin-b", "other", "five", "somebody", "late")}
        is_right = subject == expected[number] if number in expected else subject not in existing
        wrong += not is_right or contract["fhir"]["Patient"] != subject
    return wrong


def test_what_is_there_and_what_comes_late(machine: Machine, lake: HealthLakeFhirHook) -> None:
    people = [who("one", 1), who("twin-a", 3), who("twin-b", 3), who("other", 4, birthDate="1999-01-01")]
    people += [who("five", 5), who("somebody", 9)]
    orders = [order("o1", 1, "one"), order("o5", 5, "somebody")]
    machine.put({"Patient.ndjson": ndjson(*people), "ServiceRequest.ndjson": ndjson(*orders)}, "ehr/")
    assert run(machine, "ehr")["dispositions"] == {"released": 8}

    machine.put({f"{number}.dcm": ct(number, 1, 1, **BORN) for number in OUTCOMES}, "meets/")
    report = run(machine, "meets")
    counts = {name: list(OUTCOMES.values()).count(name) for name in OUTCOMES.values()}
    assert {name: report["patient_match"][name] for name in counts} == counts
    assert report["reasons"].keys() == {"patient_contradicted"}
    contracts = latest(machine)
    assert count_wrong(lake, contracts, {1: "Patient/one"}) == 0
    assert contracts[study_uid(1)]["patient_key"] == subject_key(LAKE, "Patient/one")

    machine.put({"late.ndjson": ndjson(who("late", 6))}, "ehr/")
    run(machine, "ehr")
    assert run(machine, "meets")["patient_match"]["repointed"] == 1
    assert count_wrong(lake, latest(machine), {1: "Patient/one", 6: "Patient/late"}) == 0
