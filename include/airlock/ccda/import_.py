"""Import: one data-transformation job per batch of documents. What to check before, and what to keep of the answer.

The module's name has an underscore since ``import`` is a word of the language; the stage is ``import`` everywhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ccda.records import BATCHES
from airlock.imaging.import_ import Ended, StagedPrefixError, keep
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.imaging.normalize import Batch
    from airlock.ledger import Job
    from airlock.run import Run


def check_prefix(run: Run[Any], batch: Batch) -> None:
    """Refuse a prefix that holds more or less than its batch: a job converts whatever lies below it.

    Raises
    ------
    StagedPrefixError
        With the counts; clear normalize to stage the batch again.
    """
    rows = run.workspace.read(f"batches/{batch.batch_id}", BATCHES).filter(pl.col("reason").is_null())
    planned = set(rows["staged_key"])
    there = {item.key for item in run.s3.list_objects(S3Uri.parse(batch.input_uri), placeholders=True)}
    if there != planned:
        raise StagedPrefixError(
            f"batch {batch.batch_id}: {len(planned - there)} of its {len(planned)} documents are missing and "
            f"{len(there - planned)} others lie below its prefix: clear normalize, which stages it again"
        )


def record(run: Run[Any], job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
    """Keep how a job ended, with the counts and the profile version that it reports; return what goes to XCom.

    Parameters
    ----------
    run
        The run the job belongs to.
    job
        As the ledger has it.
    properties
        ``TransformationJobProperties`` of DescribeDataTransformationJob.
    output_uri
        The job's own folder.
    """
    report = properties.get("JobProgressReport") or {}
    run.workspace.write_json(
        f"jobs/{job.batch_id}/progress.json", {"profile_version": properties.get("ProfileVersion"), **report}
    )
    ended = Ended(
        properties["JobId"],
        properties["JobStatus"],
        properties.get("Message") or "",
        properties.get("SubmitTime"),
        properties.get("EndTime"),
    )
    return keep(run, job, ended, output_uri)
