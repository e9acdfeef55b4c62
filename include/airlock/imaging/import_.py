"""Import: one HealthImaging job per batch. What is checked before it starts, and what is recorded of its end.

The module's name has an underscore since ``import`` is a keyword of Python; the stage is ``import`` everywhere else.
The operator runs the job itself (plugins/airlock_tasks), on top of plugins/healthaws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.records import BATCHES
from airlock.stages import jobs
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.ledger import Job
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.jobs import EndedJob

_FIELDS = ("jobId", "jobStatus", "message", "submittedAt", "endedAt")

# One row per file of a job that imported in place: listed_after/<batch id>.
LISTED_AFTER = pl.Schema(
    {
        "job_id": pl.String,
        "staged_key": pl.String,
        "is_unchanged": pl.Boolean,  # the object is still the one that parse read
    }
)


def check_prefix(run: Run, batch: Batch) -> None:
    """Refuse a prefix that does not hold exactly the batch's files, as `airlock.stages.jobs.check_prefix`."""
    rows = _read_sent(run, batch.batch_id)
    # Airlock's own copies have ETags of their own; files that are imported in place must be those that parse read.
    etag = pl.col("etag") if _is_in_place(run, batch.input_uri) else pl.lit(None, pl.String)
    jobs.check_prefix(run, batch, dict(rows.select("staged_key", etag=etag).iter_rows()), "stage")


def record(run: Run, job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
    """Record how a job ended, from ``jobProperties`` of GetDICOMImportJob; return what goes to XCom."""
    if _is_in_place(run, job.input_uri):
        _list_again(run, job, properties["jobId"])
    return jobs.record_job_end(run, job, properties, output_uri, _FIELDS)


def find_replaced(run: Run, job: EndedJob) -> pl.Series:
    """Return the staged keys of a batch whose objects were no longer those that parse read when the job had ended.

    Only a batch in place can have any: nobody else writes below a staging prefix.
    """
    if not _is_in_place(run, job.input_uri):
        return pl.Series([], dtype=pl.String)
    rows = run.workspace.find(_dataset(job.batch_id), LISTED_AFTER)
    return rows.filter(pl.col("job_id") == job.job_id, ~pl.col("is_unchanged"))["staged_key"]


def _list_again(run: Run, job: Job, job_id: str) -> None:
    """Write which objects of a prefix are still those that the job was started for.

    The job may have read what lay there at any time between its start and its end. The first listing stands: when the
    task is cleared much later, an object may have been replaced or deleted for good reasons.
    """
    dataset = _dataset(job.batch_id)
    if job_id in run.workspace.find(dataset, LISTED_AFTER)["job_id"]:
        return
    etags = {item.key: item.etag for item in run.s3.list_objects(S3Uri.parse(job.input_uri))}
    now = pl.col("staged_key").replace_strict(etags, default=None, return_dtype=pl.String)
    rows = _read_sent(run, job.batch_id).select(
        "staged_key", job_id=pl.lit(job_id), is_unchanged=(now == pl.col("etag")).fill_null(value=False)
    )
    run.workspace.write(dataset, LISTED_AFTER, rows.select(LISTED_AFTER.names()))


def _read_sent(run: Run, batch_id: str) -> pl.DataFrame:
    """Return the files of a batch that its job is to import."""
    return run.workspace.read(f"batches/{batch_id}", BATCHES).filter(pl.col("reason").is_null())


def _is_in_place(run: Run, input_uri: str) -> bool:
    return not input_uri.startswith(run.pipeline.staging.uri)


def _dataset(batch_id: str) -> str:
    return f"listed_after/{batch_id}"
