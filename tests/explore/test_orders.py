"""Six pieces of one patient's record come in any order, on up to six nights and in two pipelines: the end is the same.

The ImagingStudy comes with a pipeline of its own, as a publication of images does.
"""

from __future__ import annotations

import json
from itertools import permutations
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from tests.clinical_files import ndjson, observation, patient
from tests.explore.history import STAGES
from tests.explore.pipelines import clinical
from tests.explore.scheduler import Actor
from tests.explore.stages import DagRun, RunSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.pipelines import ClinicalPipeline
    from tests.explore.stages import Outside
    from tests.explore.world import World

PATIENT, VISIT, ORDER = "Patient/p1", "Encounter/v1", "ServiceRequest/r1"
WEIGHT, STUDY, REPORT = "Observation/o1", "ImagingStudy/i1", "DiagnosticReport/d1"
PIECES = (PATIENT, VISIT, ORDER, WEIGHT, STUDY, REPORT)
ORDERS = list(permutations(PIECES))
MOST_NIGHTS = 8  # after the last piece
RECORDS = clinical("records")
IMAGES = clinical("images", source={"uri": "s3://archive/published/", "order": {"across_keys": "last_modified"}})


def to(name: str) -> dict[str, str]:
    return {"reference": name}


def piece(name: str) -> dict[str, Any]:
    """Return a piece; it refers to most of the others."""
    kind, _, number = name.partition("/")
    about = {"resourceType": kind, "id": number, "subject": to(PATIENT), "encounter": to(VISIT)}
    code = {"coding": [{"system": "http://loinc.org", "code": "24627-2"}]}
    ambulatory = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    finished = {"status": "final", "code": code, "basedOn": [to(ORDER)]}
    found: dict[str, dict[str, Any]] = {
        PATIENT: patient("p1"),
        VISIT: {"resourceType": kind, "id": number, "status": "finished", "class": ambulatory, "subject": to(PATIENT)},
        ORDER: about | {"status": "active", "intent": "order", "code": code},
        WEIGHT: observation("o1", "p1", encounter=to(VISIT), basedOn=[to(ORDER)]),
        STUDY: about | {"status": "available", "basedOn": [to(ORDER)]},
        REPORT: about | finished | {"result": [to(WEIGHT)], "imagingStudy": [to(STUDY)]},
    }
    return found[name]


def take(outside: Outside, pipeline: ClinicalPipeline, number: int) -> None:
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
        folder = "published" if name == STUDY else "fhir"
        outside.s3.store("archive", f"{folder}/{name}.ndjson", ndjson(piece(name)))
        if rng.random() < 0.7:
            number += 1
            for pipeline in rng.sample([RECORDS, IMAGES], rng.choice((1, 2, 2))):
                take(outside, pipeline, number)
            outside.clock.move(24)
    assert world.reader is not None
    for night in range(number + 1, number + 1 + MOST_NIGHTS):
        for pipeline in (RECORDS, IMAGES):
            take(outside, pipeline, night)
        outside.clock.move(24)
        if not world.reader.read_parked():
            break
    assert world.reader.read_parked() == []
    return *describe_contracts(world), *describe_store(outside)


def describe_contracts(world: World) -> Iterator[dict[str, Any]]:
    """Yield the latest contracts, without their revisions and which of the two pipelines came first."""
    assert world.reader is not None
    for _, (_, text) in sorted(world.reader.read().contracts.items()):
        yield {name: value for name, value in json.loads(text).items() if name not in {"revision", "pipeline"}}


def describe_store(outside: Outside) -> Iterator[dict[str, Any]]:
    """Yield the resources of the data store, without meta."""
    rows = outside.services.state.rows("SELECT body FROM fhir_version WHERE superseded_at IS NULL AND NOT deleted")
    bodies = [json.loads(row["body"]) for row in rows]
    for body in sorted(bodies, key=lambda one: (one["resourceType"], one["id"])):
        yield {name: value for name, value in body.items() if name != "meta"}


def compare(world: World, orders: Sequence[Sequence[str]]) -> None:
    expected = play(world, PIECES, Random("in order"))  # it replays, it guards nothing
    contract, *stored = expected
    assert [one["reference"] for one in contract["resources"]] == sorted(PIECES)
    assert contract["completeness"]["state"] == "unknown"
    assert len(stored) == len(PIECES)
    for order in orders:
        assert play(world, order, Random(" ".join(order))) == expected, order


@pytest.mark.slow
def test_thirty_orders_end_alike(world: World) -> None:
    compare(world, Random(17).sample(ORDERS, 30))  # it replays, it guards nothing


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_all_orders_end_alike(world: World) -> None:
    assert len(ORDERS) == 720
    compare(world, ORDERS)
