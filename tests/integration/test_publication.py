"""Images and clinical context: released studies in the data store as FHIR, and nothing routed that is not there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airlock.pipelines import Limits
from healthaws.exceptions import JobUnfinishedError
from tests.chain import HEALTHLAKE, Chain, pipeline
from tests.dicom_files import ct, delivery, study_uid

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow


def published(place: Place, run_id: str = "manual__1", **changes: Any) -> Chain:
    return Chain(place, pipeline(healthlake=HEALTHLAKE | changes), run_id=run_id)


def count(place: Place, resource_type: str) -> int:
    return len(list(place.fhir().search(resource_type, {})))


def references(contract: dict[str, Any]) -> list[str]:
    """Return the FHIR references of a study contract."""
    fhir = contract["fhir"]
    return [fhir["Patient"], fhir["ImagingStudy"], *fhir["Endpoint"]]


def _endpoints(study: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an ImagingStudy's references to endpoints, and those of its series."""
    return [endpoint for part in (study, *study["series"]) for endpoint in part.get("endpoint", [])]


def fhir_jobs(place: Place) -> list[dict[str, Any]]:
    return [job for job in place.jobs() if job["service"] == "healthlake"]


def test_released_studies_can_be_read_as_fhir_and_held_ones_cannot(place: Place) -> None:
    place.put(delivery(studies=2, instances=2) | {"held/1.dcm": ct(3, 1, 1), "held/2.dcm": ct(3, 1, 2)[:-100]})
    chain = published(place)
    report = chain.run()
    assert report["balanced"]
    assert report["studies"] == {"released": 2, "held": 1, "stopped": 0}

    contracts = place.contracts()
    assert len(contracts) == 2
    for contract in contracts:
        assert all(place.stored(name) for name in references(contract))
        study = place.stored(contract["fhir"]["ImagingStudy"])
        assert study
        assert study["subject"] == {"reference": contract["fhir"]["Patient"]}
        assert {endpoint["reference"] for endpoint in _endpoints(study)} == set(contract["fhir"]["Endpoint"])
        assert {"system": "urn:dicom:uid", "value": f"urn:oid:{contract['StudyInstanceUID']}"} in study["identifier"]
        assert study["numberOfInstances"] == 2
    assert [count(place, kind) for kind in ("Patient", "ImagingStudy")] == [2, 2]


def test_studies_whose_publication_is_rejected_are_held_until_it_is_cured(place: Place) -> None:
    place.put(delivery(studies=2, instances=1))
    place.faults({"kind": "all_resources_rejected", "key": "ImagingStudy/*"})
    chain = published(place)
    report = chain.run()
    assert report["balanced"]
    assert report["dispositions"] == {"held": 2}
    assert report["reasons"].keys() == {"not_published"}
    assert place.contracts() == []

    place.faults()
    chain.onward("fhir.import")  # finds the job that has ended: what it said stands
    assert chain.report["dispositions"] == {"held": 2}

    chain.stores["fhir.import", 0].set("generation", 1)  # a person asks for one more job, as in docs/operations.md
    chain.onward("fhir.import")
    assert chain.report["dispositions"] == {"released": 2}
    assert len(place.contracts()) == 2
    assert len(fhir_jobs(place)) == 2


def test_study_whose_patient_is_rejected_is_held_and_the_other_is_routed(place: Place) -> None:
    place.put(delivery(studies=2, instances=1))
    chain = published(place)
    chain.until("fhir.normalize")
    staged = place.keys("staging", "batches/nightly/")
    (key,) = (key for key in staged if "/Patient." in key)
    first = json.loads(place.s3().get_object(Bucket="staging", Key=key)["Body"].read().splitlines()[0])
    place.faults({"kind": "all_resources_rejected", "key": f"Patient/{first['id']}"})
    report = chain.onward("fhir.import")
    assert report["studies"] == {"released": 1, "held": 1, "stopped": 0}
    (contract,) = place.contracts()
    assert contract["fhir"]["Patient"] != f"Patient/{first['id']}"


def test_publication_that_has_not_ended_holds_its_studies_and_is_taken_up_again(place: Place) -> None:
    place.put(delivery(studies=1, instances=2))
    chain = published(place)
    chain.until("fhir.normalize")
    place.faults({"kind": "stuck_in_progress"})
    chain.pipeline, chain.tries = pipeline(healthlake=HEALTHLAKE | {"job_timeout_minutes": 1 / 60}), 1
    with pytest.raises(JobUnfinishedError):
        chain.stage("fhir.import")
    chain.stage("fhir.audit")
    with pytest.raises(AirflowFailException, match="are undecided"):
        chain.stage("route")
    assert chain.report["reasons"].keys() == {"not_published"}
    assert place.contracts() == []

    place.faults()  # the job goes on
    chain.pipeline = pipeline(healthlake=HEALTHLAKE)
    chain.onward("fhir.import")
    assert chain.report["dispositions"] == {"released": 2}
    assert len(fhir_jobs(place)) == 1


def test_study_whose_images_come_in_late_is_published_after_the_others(place: Place) -> None:
    place.put(delivery(studies=2, instances=1))
    steady = published(place).pipeline.model_copy(update={"limits": Limits(files_per_job=1)})
    store = steady.healthimaging.model_copy(update={"job_timeout_minutes": 1 / 60})
    chain = Chain(place, steady.model_copy(update={"healthimaging": store}))
    chain.until("stage")
    _, second = chain.xcom["normalize", 0]
    place.faults({"kind": "stuck_in_progress", "input_s3_uri": f"*{second}*"})
    with pytest.raises(AirflowFailException, match="1 arrivals are undecided"):
        chain.onward("import")
    assert len(place.contracts()) == 1

    place.faults()  # the job goes on
    chain.pipeline = steady
    assert chain.onward("import")["dispositions"] == {"released": 2}
    assert len(place.contracts()) == 2
    assert len(fhir_jobs(place)) == 2
    assert {place.version(name) for contract in place.contracts() for name in references(contract)} == {1}


def test_later_delivery_of_a_study_that_was_not_published_publishes_all_of_it(place: Place) -> None:
    place.put({"1.dcm": ct(1, 1, 1)})
    place.faults({"kind": "all_resources_rejected", "key": "ImagingStudy/*"})
    assert published(place).run()["reasons"].keys() == {"not_published"}

    place.faults()
    place.put({"2.dcm": ct(1, 1, 2)})
    assert published(place, "manual__2").run()["dispositions"] == {"released": 1}
    (contract,) = place.contracts()
    study = place.stored(contract["fhir"]["ImagingStudy"])
    assert study
    assert study["numberOfInstances"] == contract["NumberOfStudyRelatedInstances"] == 2


def test_the_same_images_again_publish_nothing_new(place: Place) -> None:
    place.put(delivery(studies=2, instances=1))
    published(place).run()
    contracts = place.contracts()
    names = {name for contract in contracts for name in references(contract)}

    place.put(delivery(studies=2, instances=1), "in/again/")
    again = published(place, "manual__2")
    assert again.run()["dispositions"] == {"duplicate": 2}
    assert len(fhir_jobs(place)) == 1
    assert {place.version(name) for name in names} == {1}
    assert place.contracts() == contracts


def test_study_that_grows_is_updated_in_place(place: Place) -> None:
    place.put({"1.dcm": ct(1, 1, 1)})
    published(place).run()
    place.put({"2.dcm": ct(1, 1, 2)})
    second = published(place, "manual__2")
    assert second.run()["dispositions"] == {"released": 1}
    old, new = sorted(place.contracts(), key=lambda contract: contract["revision"])
    assert references(old) == references(new)
    study = place.stored(new["fhir"]["ImagingStudy"])
    assert study
    assert study["numberOfInstances"] == 2
    assert count(place, "ImagingStudy") == 1
    assert count(place, "Patient") == 1


def test_a_published_study_stays_as_it_was_released_while_another_run_holds_it(place: Place) -> None:
    place.put({"1.dcm": ct(1, 1, 1)})
    published(place).run()
    place.put({"2.dcm": ct(1, 1, 2), "3.dcm": ct(1, 1, 3)[:-100]})
    assert published(place, "manual__2").run()["studies"] == {"released": 0, "held": 1, "stopped": 0}
    (contract,) = place.contracts()
    study = place.stored(contract["fhir"]["ImagingStudy"])
    assert study
    assert (study["numberOfInstances"], place.version(contract["fhir"]["ImagingStudy"])) == (1, 1)
    assert known_completeness(place)[1:] == ("partial", 2, 1)

    place.put({"3.dcm": ct(1, 1, 3)})
    assert published(place, "manual__3").run()["studies"] == {"released": 1, "held": 0, "stopped": 0}
    study = place.stored(contract["fhir"]["ImagingStudy"])
    assert study
    assert study["numberOfInstances"] == 3
    assert known_completeness(place)[1:] == ("unknown", 3, 0)


def known_completeness(place: Place) -> tuple[int, str, int, int]:
    """Return revision, state, released and quarantined instances of the latest contract of study 1, sent or not."""
    with place.ledger() as ledger:
        (text,) = ledger.contracts(pipeline().datastore_id, pl.Series([study_uid(1)]))["contract"]
    contract = json.loads(text)
    found = contract["completeness"]
    return contract["revision"], found["state"], found["released"], found["quarantined"]


def test_clearing_any_stage_publishes_nothing_twice(place: Place) -> None:
    place.put(delivery(studies=1, instances=1))
    chain = published(place)
    chain.run()
    first = chain.report, chain.rows, place.contracts()
    stages = [task.task_id for task in chain.dag.topological_sort() if task.task_id != "next_wave"]
    for stage in (*stages, "fhir.normalize", "fhir.import", "fhir.audit", "route"):
        chain.stage(stage)
    assert (chain.report, chain.rows, place.contracts()) == first
    assert len(fhir_jobs(place)) == 1


def test_data_store_for_the_publication_that_is_not_there(place: Place) -> None:
    chain = published(place, datastore_id="0" * 32)
    with pytest.raises(AirflowFailException, match=r"does not exist. Correct healthlake\.datastore_id"):
        chain.stage("receive")
