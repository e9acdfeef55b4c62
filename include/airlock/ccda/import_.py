"""Import: the check of a batch before its data-transformation job, and the record of the job's end.

The module's name has an underscore since ``import`` is a keyword of Python; the stage is ``import`` everywhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ccda.manifests import keep_progress
from airlock.ccda.records import BATCHES
from airlock.stages import jobs

if TYPE_CHECKING:
    from airlock.ledger import Job
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch


def check_prefix(run: Run[CcdaPipeline], batch: Batch) -> None:
    """Raise an error unless the prefix holds exactly the batch's documents, as `airlock.stages.jobs.check_prefix`."""
    rows = run.workspace.read(f"batches/{batch.batch_id}", BATCHES).filter(pl.col("reason").is_null())
    jobs.check_prefix(run, batch, dict.fromkeys(rows["staged_key"]))


def record(run: Run[CcdaPipeline], job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
    """Record a job's end with its own counts and profile version; return the value for XCom.

    The properties are ``TransformationJobProperties`` of DescribeDataTransformationJob.
    """
    keep_progress(run.workspace, job.batch_id, properties)
    return jobs.record_job_end(run, job, properties, output_uri, jobs.HEALTHLAKE_FIELDS)
