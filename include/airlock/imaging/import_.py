"""Import: one HealthImaging job per batch. What to ask for, what to check before, and what to keep of the answer.

The module's name has an underscore since ``import`` is a word of the language; the stage is ``import`` everywhere else.
The job itself is run by the operator (plugins/airlock_tasks), on top of plugins/healthaws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.records import BATCHES, JOBS
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from datetime import datetime

    from airlock.imaging.normalize import Batch
    from airlock.ledger import Job
    from airlock.run import Run


class StagedPrefixError(RuntimeError):
    """A batch's prefix does not hold exactly the batch's files, so no job may import it."""


def check_prefix(run: Run, batch: Batch) -> None:
    """Refuse a prefix that holds more, less or other than its batch: a job imports whatever lies below it.

    Raises
    ------
    StagedPrefixError
        With the counts; clear normalize to stage the batch again.
    """
    rows = run.workspace.read(f"batches/{batch.batch_id}", BATCHES).filter(pl.col("reason").is_null())
    planned = set(rows["staged_key"])
    listed = {item.key: item.etag for item in run.s3.list_objects(S3Uri.parse(batch.input_uri), placeholders=True)}
    there = listed.keys()
    replaced = _replaced(run, batch, rows, listed)
    if there != planned or replaced:
        raise StagedPrefixError(
            f"batch {batch.batch_id}: {len(planned - there)} of its {len(planned)} files are missing, {replaced} were "
            f"replaced and {len(there - planned)} others lie below its prefix: clear normalize, which stages it again"
        )


def _replaced(run: Run, batch: Batch, rows: pl.DataFrame, listed: dict[str, str]) -> int:
    """Count the objects of a batch imported in place that are not those that parse read; copies are Airlock's own."""
    if batch.input_uri.startswith(run.pipeline.staging.uri):
        return 0
    return sum(listed.get(key, etag) != etag for key, etag in rows.select("key", "etag").iter_rows())


@dataclass(frozen=True)
class Ended:
    """How a job ended, in the words that both services share."""

    job_id: str
    status: str
    message: str
    submitted_at: datetime | None
    ended_at: datetime | None


def record(run: Run, job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
    """Keep how a job ended; return what goes to XCom.

    Parameters
    ----------
    run
        The run the job belongs to.
    job
        As the ledger has it.
    properties
        ``jobProperties`` of GetDICOMImportJob.
    output_uri
        The job's own folder.
    """
    ended = Ended(
        properties["jobId"],
        properties["jobStatus"],
        properties.get("message") or "",
        properties.get("submittedAt"),
        properties.get("endedAt"),
    )
    return keep(run, job, ended, output_uri)


def keep(run: Run[Any], job: Job, ended: Ended, output_uri: str) -> dict[str, Any]:
    """Write how a job ended to the ledger and as the dataset ``jobs/<batch id>``; return what goes to XCom."""
    run.ledger.record_job(replace(job, **vars(ended), output_uri=output_uri))
    row = {
        "batch_id": job.batch_id,
        "generation": job.generation,
        "job_id": ended.job_id,
        "status": ended.status,
        "message": ended.message,
        "input_uri": job.input_uri,
        "output_uri": output_uri,
    }
    run.workspace.write(f"jobs/{job.batch_id}", JOBS, pl.DataFrame([row], schema=JOBS))
    return {name: row[name] for name in ("batch_id", "generation", "job_id", "status")}
