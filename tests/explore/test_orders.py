"""Six pieces of one patient's record come in any order, on up to six nights and in two pipelines: the end is the same.

The study is of images: its pipeline looks for the Patient and the order, and publishes the ImagingStudy to which the
report refers.
"""

from __future__ import annotations

import json
from itertools import permutations
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from airlock.records import digest
from tests.clinical_files import ndjson, observation, patient
from tests.dicom_files import ct, study_uid
from tests.explore.history import STAGES
from tests.explore.pipelines import clinical, publishing
from tests.explore.scheduler import Actor
from tests.explore.stages import DagRun, RunSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.pipelines import Pipeline
    from tests.explore.stages import Outside
    from tests.explore.world import World

PATIENT, VISIT, ORDER = "Patient/p1", "Encounter/v1", "ServiceRequest/r1"
WEIGHT, REPORT = "Observation/o1", "DiagnosticReport/d1"
STUDY = f"ImagingStudy/{digest(json.dumps(('ImagingStudy', study_uid(1))))}"
PIECES = (PATIENT, VISIT, ORDER, WEIGHT, STUDY, REPORT)
ORDERS = list(permutations(PIECES))
MOST_NIGHTS = 8  # after the last piece
MRN = "https://site-a.example/patients"
RECORDS = clinical("records")
IMAGES = publishing(
    "images",
    publish={"issuer_systems": {"SITE-A": MRN}, "patient_match": {"rules": [{"type": "identifier", "system": MRN}]}},
)


def to(name: str) -> dict[str, str]:
    return {"reference": name}


def piece(name: str) -> dict[str, Any]:
    """Return a piece of the records; it refers to most of the others."""
    kind, _, number = name.partition("/")
    about = {"resourceType": kind, "id": number, "subject": to(PATIENT), "encounter": to(VISIT)}
    code = {"coding": [{"system": "http://loinc.org", "code": "24627-2"}]}
    accession = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
    asked = {"status": "active", "intent": "order", "code": code, "authoredOn": "2026-02-27"}
    ambulatory = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    finished = {"status": "final", "code": code, "basedOn": [to(ORDER)]}
    found: dict[str, dict[str, Any]] = {
        PATIENT: patient("p1", identifier=[{"system": MRN, "value": "PID-1"}]),
        VISIT: {"resourceType": kind, "id": number, "status": "finished", "class": ambulatory, "subject": to(PATIENT)},
        ORDER: about | asked | {"identifier": [{"type": accession, "value": "ACC-1"}]},
        WEIGHT: observation("o1", "p1", encounter=to(VISIT), basedOn=[to(ORDER)]),
        REPORT: about | finished | {"result": [to(WEIGHT)], "imagingStudy": [to(STUDY)]},
    }
    return found[name]


def deliver(outside: Outside, name: str) -> None:
    if name == STUDY:
        born = {"PatientBirthDate": "19610412", "PatientSex": "O"}
        outside.s3.store("archive", "in/1.dcm", ct(1, 1, 1, **born))
    else:
        outside.s3.store("archive", f"fhir/{name}.ndjson", ndjson(piece(name)))


def take(outside: Outside, pipeline: Pipeline, number: int) -> None:
    """Let one night's run of a pipeline take what is there."""
    name = f"night {number} of {pipeline.name}"
    run = DagRun(RunSpec(name, pipeline, f"manual__{number}"), outside, Actor(name, lambda *_: None))
    run.begin(STAGES[0])
    run.actor.go(None)
    assert run.ended_well, (run.states, run.errors)


def play(world: World, order: Sequence[str], rng: Random) -> tuple[Any, ...]:
    """Deliver the pieces in this order, some of them on one night; return what is there in the end."""
    outside = world.reset()
    number = 0
    for name in order:
        deliver(outside, name)
        if rng.random() < 0.5:
            number += 1
            for pipeline in rng.sample([RECORDS, IMAGES], rng.choice((1, 2, 2))):
                take(outside, pipeline, number)
            outside.clock.move(24)
    assert world.reader is not None
    for night in range(number + 1, number + 1 + MOST_NIGHTS):
        take(outside, RECORDS, night)
        is_whole = not world.reader.read_parked()
        take(outside, IMAGES, night)  # it looks once more after the records
        outside.clock.move(24)
        if is_whole:
            break
    assert world.reader.read_parked() == []
    return tuple(name_alike([*describe_contracts(world), *describe_store(outside)]))


def name_alike(contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return contents with one name for what HealthImaging has named by chance: the image set, and so its Endpoint."""
    study = find(contents, "airlock.study/1")
    (image_set,), endpoint = study["series"][0]["image_set_ids"], study["fhir"]["Endpoint"][1].partition("/")[2]
    text = json.dumps(contents).replace(image_set, "image-set").replace(endpoint, "endpoint-of-image-set")
    return sorted(json.loads(text), key=lambda one: (one.get("resourceType", ""), one.get("id", "")))


def describe_contracts(world: World) -> Iterator[dict[str, Any]]:
    """Yield the latest contracts, without their revisions."""
    assert world.reader is not None
    for _, (_, text) in sorted(world.reader.read().contracts.items()):
        yield {name: value for name, value in json.loads(text).items() if name != "revision"}


def describe_store(outside: Outside) -> Iterator[dict[str, Any]]:
    """Yield the resources of the data store, without meta, and without Patients of Airlock's own."""
    rows = outside.services.state.rows("SELECT body FROM fhir_version WHERE superseded_at IS NULL AND NOT deleted")
    bodies = [json.loads(row["body"]) for row in rows]
    for body in bodies:
        if body["resourceType"] != "Patient" or f"Patient/{body['id']}" == PATIENT:
            yield {name: value for name, value in body.items() if name != "meta"}


def find(contents: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (one for one in contents if kind in (one.get("schema"), one.get("resourceType")))
    return found


def compare(world: World, orders: Sequence[Sequence[str]]) -> None:
    expected = play(world, PIECES, Random("in order"))  # it replays, it guards nothing
    records = find(expected, "airlock.clinical/1")
    assert [one["reference"] for one in records["resources"]] == sorted({*PIECES} - {STUDY})
    assert records["completeness"]["state"] == "unknown"
    study = find(expected, "airlock.study/1")
    assert (study["fhir"]["Patient"], study["fhir"]["ServiceRequest"]) == (PATIENT, ORDER)
    published = find(expected, "ImagingStudy")
    assert (published["subject"], published["basedOn"]) == (to(PATIENT), [to(ORDER)])
    for order in orders:
        assert play(world, order, Random(" ".join(order))) == expected, order


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two minutes of CPU, of which a busy machine gives it a third
def test_thirty_orders_end_alike(world: World) -> None:
    compare(world, Random(17).sample(ORDERS, 30))  # it replays, it guards nothing


@pytest.mark.proof
@pytest.mark.timeout(7200)
def test_all_orders_end_alike(world: World) -> None:
    assert len(ORDERS) == 720
    compare(world, ORDERS)
