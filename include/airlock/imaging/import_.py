"""Import: one HealthImaging job per batch. What is checked before it starts, and what is recorded of its end.

The module's name has an underscore since ``import`` is a keyword of Python; the stage is ``import`` everywhere else.
The operator runs the job itself (plugins/airlock_tasks), on top of plugins/healthaws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.records import BATCHES
from airlock.stages import jobs

if TYPE_CHECKING:
    from airlock.ledger import Job
    from airlock.run import Run
    from airlock.stages.batches import Batch

_FIELDS = ("jobId", "jobStatus", "message", "submittedAt", "endedAt")


def check_prefix(run: Run, batch: Batch) -> None:
    """Refuse a prefix that does not hold exactly the batch's files, as `airlock.stages.jobs.check_prefix`."""
    rows = run.workspace.read(f"batches/{batch.batch_id}", BATCHES).filter(pl.col("reason").is_null())
    # Airlock's own copies have ETags of their own; files that are imported in place must be those that parse read.
    is_copied = batch.input_uri.startswith(run.pipeline.staging.uri)
    etag = pl.lit(None, pl.String) if is_copied else pl.col("etag")
    jobs.check_prefix(run, batch, dict(rows.select("staged_key", etag=etag).iter_rows()))


def record(run: Run, job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
    """Record how a job ended, from ``jobProperties`` of GetDICOMImportJob; return what goes to XCom."""
    return jobs.record_job_end(run, job, properties, output_uri, _FIELDS)
