"""Import: one HealthLake job per batch. What is checked before it starts, and what is recorded of its end.

The module's name has an underscore since ``import`` is a keyword of Python; the stage is ``import`` everywhere else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.manifests import keep_progress
from airlock.clinical.records import BATCHES
from airlock.stages import jobs
from airlock.stages.batches import find_batches

if TYPE_CHECKING:
    from airlock.ledger import Job
    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch


def check_prefix(run: Run[Pipeline], batch: Batch) -> None:
    """Refuse a prefix that does not hold exactly the batch's import files, as `airlock.stages.jobs.check_prefix`."""
    rows = run.workspace.read(f"batches/{batch.batch_id}", BATCHES)
    jobs.check_prefix(run, batch, dict(rows.group_by("staged_key").agg(pl.col("size").sum()).iter_rows()))


def record(run: Run[Pipeline], job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
    """Record how a job ended, from ``ImportJobProperties`` of DescribeFHIRImportJob; return what goes to XCom."""
    keep_progress(run.workspace, job.batch_id, properties)
    made = {name: properties.get(name) for name in ("DatastoreId", "ValidationLevel")}
    run.workspace.write_json(_made(job.batch_id), made)
    return jobs.record_job_end(run, job, properties, output_uri, jobs.HEALTHLAKE_FIELDS)


def find_other_targets(run: Run[Pipeline], datastore_id: str, level: str) -> list[str]:
    """Return a sentence for each of a run's jobs that used another data store or level than the pipeline names today.

    A job proves nothing about a data store or level that it did not use.
    """
    found: list[str] = []
    for batch in find_batches(run):
        try:
            made = json.loads(run.s3.get(run.workspace.root.join(_made(batch.batch_id))))
        except FileNotFoundError:
            continue  # its job has not ended
        for name, wanted in (("DatastoreId", datastore_id), ("ValidationLevel", level)):
            if made[name] not in {None, wanted}:
                found.append(
                    f"batch {batch.batch_id} was imported with {name} {made[name]}, but the pipeline now names "
                    f"{wanted}: change it back, or import the delivery again in a new run"
                )
    return found


def _made(batch_id: str) -> str:
    return f"made/{batch_id}.json"
