"""The impact of the rules of a clinical pipeline on what earlier runs and plans have read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert

from airlock.clinical.impact import measure_impact
from airlock.clinical.records import VERDICTS
from airlock.ledger.tables import open_resources
from airlock.run import Run
from airlock.storage.s3uri import S3Uri
from tests.chain import ccda_pipeline, clinical_pipeline
from tests.unit.airlock.world import frame

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline
    from tests.unit.airlock.world import World

WORKSPACE = {"workspace": "s3://work/runs/"}


def validated(world: World, line: ClinicalPipeline, *rows: tuple[str, str | None], folder: str = "") -> None:
    """Leave the verdicts of a run: ids of patients, each with a reason."""
    run = Run(line, "one", None, S3Uri.parse(line.source.uri), world.s3, world.ledger, folder)
    run.ledger.open_run(run.key, line.name, run.run_id, None)
    made: list[dict[str, Any]] = [
        {"arrival_id": "a", "line": number, "resource_type": "Patient", "resource_id": name, "reason": reason}
        for number, (name, reason) in enumerate(rows)
    ]
    run.workspace.write("verdicts", VERDICTS, frame(made, VERDICTS))


def found(world: World, line: ClinicalPipeline) -> dict[str, tuple[int, int]]:
    return {one.rule: (one.would_hold, one.of) for one in measure_impact(line, world.s3, world.ledger).rules}


def test_resources_whose_contents_nothing_orders(world: World) -> None:
    line = clinical_pipeline(**WORKSPACE)
    validated(world, line, ("p1", "order_unknown"), ("p1", "order_unknown"), ("p2", None), ("p3", "newer_content"))
    assert found(world, line)["order_unknown"] == (1, 3)


def test_resources_converted_from_documents_count(world: World) -> None:
    line = ccda_pipeline(**WORKSPACE)
    validated(world, line, ("p1", "order_unknown"), folder="fhir")
    assert found(world, line)["order_unknown"] == (1, 1)


def test_patients_who_lack_a_resource_of_the_types_that_hold(world: World) -> None:
    line = clinical_pipeline(**WORKSPACE)
    assert found(world, line)["hold_types"] == (0, 0)
    types = [("AllergyIntolerance", "refused"), ("Observation", "refused"), ("Condition", "held")]
    opened = {"datastore_id": line.datastore_id, "run_key": "one", "pipeline": line.name}
    with world.ledger._writing("test") as connection:
        for number, (kind, state) in enumerate(types):
            row = {"resource_type": kind, "resource_id": str(number), "state": state, "patient": f"Patient/{number}"}
            connection.execute(insert(open_resources).values(opened | row))
    assert found(world, line)["hold_types"] == (1, 3)
