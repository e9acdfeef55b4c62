"""A reconciliation finds every difference between the ledger, S3 and HealthLake, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airlock.records import subject_key
from airlock_tasks.run import connect_s3
from tests.chain import RECORDS, Chain, clinical_pipeline
from tests.clinical_files import ndjson, observation, organization, patient
from tests.integration.between_runs.runs import given
from tests.integration.reconciling import Reconciler
from tests.rebuilt_ledger import lose_and_rebuild

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chain import Place

pytestmark = pytest.mark.slow

DELIVERY = {
    "p1.ndjson": ndjson(patient("p1"), observation("o1"), observation("o2", valueQuantity={"value": 1.10})),
    "p2.ndjson": ndjson(patient("p2"), observation("o3", of="p2")),
    "org.ndjson": ndjson(organization()),
}


def run(place: Place, name: str, **params: Any) -> dict[str, Any]:
    return Chain(place, clinical_pipeline(), run_id=f"manual__{name}", params=params).run()


@pytest.fixture
def stored(place: Place) -> Place:
    """A data store with a released delivery."""
    place.put(DELIVERY)
    given(run(place, "one")["dispositions"] == {"released": 6})
    return place


@pytest.fixture
def person(stored: Place) -> Reconciler:
    return Reconciler(stored, clinical_pipeline())


@pytest.mark.parametrize("scope", [{}, {"content": True}, {"sample": 3, "content": True}, {"subject": "Patient/p1"}])
def test_what_nobody_has_touched_differs_in_nothing(person: Reconciler, scope: dict[str, Any]) -> None:
    assert person.report(**scope)["findings"] == {}


def test_every_seeded_difference_is_found_and_no_other(person: Reconciler) -> None:
    place, fhir = person.place, person.place.fhir()
    fhir.delete("Observation", "o1")
    fhir.update(patient("stranger"))
    fhir.update(observation("o2", valueQuantity={"value": 99}))
    fhir.update(organization())  # another version with the same content
    place.s3().delete_object(Bucket="archive", Key="in/p2.ndjson")
    for key in place.keys("workspace", "runs/records/"):
        if "/contracts/" in key and subject_key(RECORDS, "Patient/p2") in key:
            place.s3().delete_object(Bucket="workspace", Key=key)
    report = person.report(content=True)
    with place.ledger() as ledger:
        (vanished,) = ledger.brought_by(RECORDS, ledger.resources_of_patient(RECORDS, "Patient/p2")[:1])["key"]
    given(vanished == "in/p2.ndjson")
    kinds = sorted(person.open_findings())
    assert [pair for pair in kinds if pair[0] not in {"vanished", "no_evidence"}] == [
        ("foreign_in_store", "Patient/stranger"),
        ("missing_in_store", "Observation/o1"),
        ("other_content", "Observation/o2"),
    ]
    assert [kind for kind, _ in kinds if kind in {"vanished", "no_evidence"}] == ["no_evidence", "vanished"]
    assert report["left_out"] == {}


def test_a_redrive_brings_again_what_the_store_has_lost(person: Reconciler) -> None:
    place = person.place
    place.fhir().delete("Observation", "o1")
    given(person.report()["counts"]["forgotten"] == 1)
    report = run(place, "two", redrive_findings=True, redrive_why="somebody deleted it")
    assert report["dispositions"] == {"released": 1, "duplicate": 2}
    assert place.stored("Observation/o1") is not None
    assert person.report(content=True)["closed"] == {"missing_in_store": 1}
    assert person.open_findings() == set()


def test_a_redrive_after_a_rebuild_brings_again_what_the_store_has_lost(person: Reconciler, tmp_path: Path) -> None:
    place = person.place
    place.fhir().delete("Observation", "o1")
    given(person.report()["counts"]["forgotten"] == 1)
    lose_and_rebuild(place.ledger_url, tmp_path / "ledger.db", connect_s3("aws_default"), [person.line])
    assert set(person.report()["findings"]) == {"missing_in_store"}
    run(place, "two", redrive_findings=True, redrive_why="somebody deleted it")
    assert place.stored("Observation/o1") is not None
    assert person.report(content=True)["findings"] == {}


def test_a_patient_with_a_lost_resource_is_held(person: Reconciler) -> None:
    place = person.place
    place.fhir().delete("Observation", "o1")
    given(person.report()["counts"]["forgotten"] == 1)
    place.put({"more.ndjson": ndjson(observation("o9"))})
    assert run(place, "two")["dispositions"] == {"held": 1}


def test_what_is_there_again_counts_as_stored(person: Reconciler) -> None:
    place = person.place
    before = place.stored("Observation/o1")
    place.fhir().delete("Observation", "o1")
    given(person.report()["counts"]["forgotten"] == 1)
    assert before is not None
    place.fhir().update({name: value for name, value in before.items() if name != "meta"})
    assert person.report()["closed"] == {"missing_in_store": 1}
    assert person.report(content=True)["findings"] == {}
    with pytest.raises(AirflowFailException, match="buffer"):
        run(place, "two", redrive_findings=True, redrive_why="nothing is left to do")


def test_other_content_under_the_id_of_a_lost_resource_does_not_count_as_stored(person: Reconciler) -> None:
    place = person.place
    place.fhir().delete("Observation", "o1")
    given(person.report()["counts"]["forgotten"] == 1)
    place.fhir().update(observation("o1", valueQuantity={"value": 99}))  # of somebody else
    assert person.report()["closed"] == {}
    assert run(place, "two", redrive_findings=True, redrive_why="it is other content")["dispositions"]["released"] == 1
    assert person.report(content=True)["findings"] == {}


def test_a_sample_counts_each_resource_that_differs_and_none_that_was_left_out(person: Reconciler) -> None:
    place = person.place
    place.s3().delete_object(Bucket="archive", Key="in/p1.ndjson")  # it brought three resources
    assert person.report(sample=100, parts=("source",))["sample"] | {"at_most": 0} == {
        "unit": "resources",
        "compared": 6,
        "differing": 3,
        "at_most": 0,
        "confidence": 0.95,
    }
    place.fhir().update(observation("o3", of="p2", valueQuantity={"value": 99}))
    for key in place.keys("workspace", "runs/records/"):
        if "/batches/" in key:
            place.s3().delete_object(Bucket="workspace", Key=key)
    sample = person.report(sample=100, content=True, parts=("store",))["sample"]
    assert (sample["compared"], sample["differing"]) == (5, 0)


def test_throttling_slows_a_comparison_down_and_does_not_end_it(person: Reconciler) -> None:
    searches = person.report()["requests"]["SearchWithPost"]
    person.place.faults({"kind": "throttle_storm", "operation": "SearchWithPost", "times": 2})
    report = person.report()
    assert report["findings"] == {}
    assert report["requests"]["SearchWithPost"] == searches + 2
