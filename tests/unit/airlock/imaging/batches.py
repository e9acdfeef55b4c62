"""Deliveries for the tests of normalize and stage, and what they make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.imaging.normalize import normalize
from airlock.imaging.stage import stage
from airlock.ledger import Job
from airlock.records import BATCHES, VERDICTS
from airlock.stages.batches import find_batches
from tests.unit.airlock.world import dicom, pipeline, verdicts

if TYPE_CHECKING:
    import polars as pl

    from airlock.run import Run
    from airlock.stages.batches import Batch
    from tests.unit.airlock.world import World


def delivered(world: World, *files: dict[str, Any], run_id: str = "one", **changes: Any) -> Run:
    """Put the files' objects, and give the run verdicts that accept them as they lie there now."""
    run = world.run(run_id, pipeline(**changes))
    rows = []
    for each in files:
        body = f"content of {each['key']}".encode()
        etag = world.put(f"s3://archive/{each['key']}", body)
        rows.append(dicom("", **(each | {"etag": etag, "size": len(body)})))
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    run.workspace.write("verdicts", VERDICTS, verdicts(*rows))
    return run


def read_batches(run: Run) -> pl.DataFrame:
    """Return every file of every batch of the run."""
    return run.workspace.read_all([f"batches/{batch.batch_id}" for batch in find_batches(run)], BATCHES)


def series(name: str, number: int, size: int = 10, study: str = "1.1") -> list[dict[str, Any]]:
    return [dicom(f"{name}/{i:03}", SeriesInstanceUID=name, StudyInstanceUID=study, size=size) for i in range(number)]


def stage_all(run: Run) -> list[Batch]:
    """Plan and stage all of a run's batches."""
    return [stage(run, batch.batch_id) for batch in normalize(run)]


def started(run: Run, batch: Batch, status: str | None = None) -> None:
    """Write a batch's job down as import does."""
    run.ledger.record_job(Job(batch.batch_id, 0, run.key, "token", "job", status, input_uri=batch.input_uri))
