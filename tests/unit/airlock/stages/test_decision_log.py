"""A decision counts when its copy is below the workspace, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger.gates import GATES, SCOPE
from airlock.stages.decision_log import DecisionNotKeptError, decide
from tests.unit.airlock.world import STORE

if TYPE_CHECKING:
    from airlock.ledger import Ledger
    from airlock.run import Run
    from tests.unit.airlock.world import World

FOLDER = "s3://work/runs/nightly/decisions/"


@pytest.fixture
def run(world: World) -> Run:
    run = world.run()
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    held = pl.DataFrame([("1.1", "key", "hold", "study_held")], GATES, orient="row")
    run.ledger.record_gates(STORE, run.key, held)
    return run


def override(run: Run, ledger: Ledger, subject: str = "1.1") -> None:
    ledger.override_holds(STORE, run.key, pl.Series([subject]), "ada", "seen beside the source")


def is_released(run: Run) -> bool:
    return bool(run.ledger.gates_of(STORE, run.key)["released"].item())


def test_a_decision_and_its_copy_are_there(world: World, run: Run) -> None:
    decide(run.s3, run.pipeline, run.ledger, lambda ledger: override(run, ledger), SCOPE)
    assert is_released(run)
    assert len(world.keys(FOLDER)) == 1


def test_a_decision_without_a_copy_does_not_count(world: World, run: Run) -> None:
    pipeline = run.pipeline.model_copy(update={"workspace": "s3://nowhere/runs/"})
    with pytest.raises(
        DecisionNotKeptError, match=r"does not count, .* 'nightly' \(NoSuchBucket\)\. Let the role write"
    ):
        decide(run.s3, pipeline, run.ledger, lambda ledger: override(run, ledger), SCOPE)
    assert not is_released(run)


def test_a_decision_that_the_ledger_refuses_leaves_no_copy(world: World, run: Run) -> None:
    with pytest.raises(Exception, match="does not hold 1 of these subjects"):
        decide(run.s3, run.pipeline, run.ledger, lambda ledger: override(run, ledger, "1.2"), SCOPE)
    assert world.keys(FOLDER) == []
