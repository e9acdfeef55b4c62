"""Context that comes late is waited for: through the DAGs, against real servers and the emulator's data store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import TaskAwaitingInput

from airlock.records import digest
from airlock_cli.where import find
from airlock_tasks.brake import GO_ON
from tests.chain import HEALTHLAKE, Chain, answer, clinical_pipeline, pipeline, questions_to_people
from tests.clinical_files import ndjson, observation, patient
from tests.dicom_files import delivery, study_uid

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

WAITS = ("parked", "waiting_for_resource")
BODIES = "runs/records/parked/"


def encounter(name: str = "e1", of: str = "p1") -> dict[str, Any]:
    kind = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    base = {"resourceType": "Encounter", "id": name, "status": "finished", "class": kind}
    return base | {"subject": {"reference": f"Patient/{of}"}}


def night(place: Place, number: int, *resources: Any, **changes: Any) -> Chain:
    """Deliver resources, and let a night's run take them."""
    if resources:
        place.put({f"{number}.ndjson": ndjson(*resources)})
    chain = Chain(place, clinical_pipeline(**changes), run_id=f"manual__{number}")
    assert chain.run()["balanced"]
    return chain


def test_a_record_in_the_wrong_order_is_whole_a_night_after_its_patient(place: Place) -> None:
    first = night(place, 1, observation("o1", encounter={"reference": "Encounter/e1"}))
    assert first.words == {"Observation/o1": WAITS}
    assert night(place, 2, encounter()).words == {"Encounter/e1": WAITS}
    assert len(place.keys("workspace", BODIES)) == 2
    assert night(place, 3, patient()).report["dispositions"] == {"released": 1}
    (contract,) = (one for one in place.contracts() if one["subject"]["kind"] == "patient")
    assert contract["completeness"]["parked"] == {"Encounter": 1, "Observation": 1}

    report = night(place, 4).report
    assert (report["arrivals"], report["dispositions"]) == (1, {"released": 2})
    assert place.routed() == {"Patient/p1", "Encounter/e1", "Observation/o1"}
    assert place.keys("workspace", BODIES) == []
    latest = max(place.contracts(), key=lambda one: one["revision"])
    assert latest["completeness"]["state"] == "unknown"
    assert "parked" not in latest["completeness"]
    assert [one["source"] for one in latest["resources"]] == [
        "s3://archive/in/2.ndjson", "s3://archive/in/1.ndjson", "s3://archive/in/3.ndjson",
    ]  # fmt: skip


def test_what_an_identifier_names_is_waited_for_too(place: Place) -> None:
    named = observation("o1", subject={"reference": "Patient?identifier=urn:mrn|7"})
    assert night(place, 1, named).words == {"Observation/o1": WAITS}
    assert night(place, 2, patient("p2")).report["dispositions"] == {"released": 1, "parked": 1}, (
        "it is asked about again"
    )
    night(place, 3, patient("p1", identifier=[{"system": "urn:mrn", "value": "7"}]))
    found = place.stored("Observation/o1")
    assert found is not None
    assert found["subject"]["reference"] == "Patient/p1"
    assert place.keys("workspace", BODIES) == []


@pytest.mark.parametrize("identifier", ["urn:mrn|", "urn:mrn|404,7"])
def test_a_number_that_is_missing_or_a_list_is_nobodys(place: Place, identifier: str) -> None:
    """A search by ``system|`` finds anybody with a number of the system."""
    first = night(place, 1, observation("o1", subject={"reference": f"Patient?identifier={identifier}"}))
    assert first.words == {"Observation/o1": ("quarantined", "unresolved_reference")}
    night(place, 2, patient("stranger", identifier=[{"system": "urn:mrn", "value": "7"}]))
    assert place.stored("Observation/o1") is None


def test_the_source_may_be_gone_by_then_and_any_stage_may_be_repeated(place: Place) -> None:
    night(place, 1, observation("o1"))
    place.take("archive")
    night(place, 2, patient())
    chain = night(place, 3)
    for stage in ("buffer", "validate", "audit"):
        chain.onward(stage)
        assert chain.report["dispositions"] == {"released": 1}
    assert place.version("Observation/o1") == 1
    assert len(place.jobs()) == 2


def test_a_report_waits_for_the_study_that_images_are_published_as(place: Place) -> None:
    study = f"ImagingStudy/{digest(json.dumps(('ImagingStudy', study_uid(1))))}"
    report = {"resourceType": "DiagnosticReport", "id": "d1", "status": "final", "code": {"text": "CT"}}
    report |= {"subject": {"reference": "Patient/p1"}, "imagingStudy": [{"reference": study}]}
    assert night(place, 1, patient(), report).words == {"DiagnosticReport/d1": WAITS}
    place.put(delivery(studies=1, instances=2))
    chain = Chain(place, pipeline(healthlake=HEALTHLAKE), run_id="manual__images", params={"prefix": None})
    assert chain.run()["studies"]["released"] == 1
    assert place.stored(study)
    assert night(place, 3).report["dispositions"]["released"] >= 1
    assert place.stored("DiagnosticReport/d1")


def test_entries_of_a_bundle_that_wait_are_read_back_as_they_were_sent(place: Place) -> None:
    met = "urn:uuid:7a6d9a2e-8c1f-4a0e-9a55-0d0a2b6f1c11"
    entries: list[dict[str, Any]] = [
        {"fullUrl": met, "resource": encounter()},
        {
            "fullUrl": "urn:uuid:b",
            "resource": observation("o1", encounter={"reference": met}, valueQuantity={"value": 1.50, "unit": "mg"}),
        },
    ]
    bundle = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).replace("1.5,", "1.500,")
    place.put({"1.json": bundle.encode()})
    chain = Chain(place, clinical_pipeline(), run_id="manual__1")
    assert chain.run()["balanced"]
    assert chain.words == {"Encounter/e1": WAITS, "Observation/o1": WAITS}
    place.take("archive")
    night(place, 2, patient())
    report = night(place, 3).report
    assert report["dispositions"] == {"released": 2}
    found = place.stored("Observation/o1")
    assert found is not None
    assert found["encounter"]["reference"] == "Encounter/e1"
    assert place.keys("workspace", BODIES) == []
    assert night(place, 4, observation("o2")).report["balanced"]


def test_where_says_what_a_resource_waits_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", place.ledger_url)
    night(place, 1, observation("o1"))
    (parked,) = find("Observation/o1")["parked"]
    assert (parked["disposition"], parked["waits_for"], parked["is_due"]) == ("parked", ["Patient/p1"], False)
    night(place, 2, patient())
    assert find("Observation/o1")["parked"][0]["is_due"]
    night(place, 3)
    found = find("Observation/o1")
    assert found["parked"] == []
    assert [row["disposition"] for row in found["resources"]] == ["released"]


def test_a_delivery_of_which_much_would_wait_is_one_question(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = questions_to_people(monkeypatch)
    place.put({"1.ndjson": ndjson(*(observation(f"o{number}") for number in range(3)), *map(patient, "abcdefgh"))})
    brake = {"manifest_wait_seconds": 3, "brake": {"least_arrivals": 10}}
    chain = Chain(place, clinical_pipeline(audit=brake), tries=1)
    with pytest.raises(TaskAwaitingInput):
        chain.until("validate")
    (question,) = asked
    assert "3 of 11 (27.3 %) would wait for a resource of type Patient" in question["body"]
    chain.answer = answer(GO_ON, "the patients come tomorrow")
    assert chain.onward("validate")["dispositions"] == {"released": 8, "parked": 3}
