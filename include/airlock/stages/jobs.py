"""The import job of a batch: what is checked before it starts, and what is recorded when it has ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.records import JOBS
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.ledger import Job
    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch

# The names that HealthLake's jobs, of import and of conversion, give to id, status, message, start and end.
HEALTHLAKE_FIELDS = ("JobId", "JobStatus", "Message", "SubmitTime", "EndTime")


class StagedPrefixError(RuntimeError):
    """A batch's prefix does not hold exactly the batch's objects, so no job may import it."""


@dataclass(frozen=True)
class EndedJob:
    """A row of the jobs dataset: the last job of a batch, which has ended."""

    batch_id: str
    generation: int
    job_id: str
    status: str  # the service's word
    message: str
    input_uri: str
    output_uri: str  # the job's own folder, ending in "/"


def check_prefix(
    run: Run[Pipeline], batch: Batch, staged: Mapping[str, str | int | None], staged_by: str = "normalize"
) -> None:
    """Refuse a prefix that holds more, less or other than its batch: a job imports everything below it.

    Parameters
    ----------
    run
        The run.
    batch
        The batch whose job is to start.
    staged
        The keys of the batch's objects, each with the ETag or the size that the object must have, or None for any.
    staged_by
        The task that stages the batch, and that a person clears to have it staged again.

    Raises
    ------
    StagedPrefixError
        With the counts, and the task to clear.
    """
    listed = {item.key: item for item in run.s3.list_objects(S3Uri.parse(batch.input_uri), placeholders=True)}
    missing = len(staged.keys() - listed.keys())
    others = len(listed.keys() - staged.keys())
    facts = ((fact, listed[key]) for key, fact in staged.items() if key in listed)
    changed = sum(fact not in {None, item.etag, item.size} for fact, item in facts)
    if missing or others or changed:
        raise StagedPrefixError(
            f"batch {batch.batch_id}: of its {len(staged)} objects {missing} are missing and {changed} were replaced, "
            f"and {others} others lie below its prefix. Clear {staged_by} to stage the batch again."
        )


def record_job_end(
    run: Run[Pipeline], job: Job, properties: Mapping[str, Any], output_uri: str, fields: tuple[str, ...]
) -> dict[str, Any]:
    """Write how a job ended to the ledger and as the dataset ``jobs/<batch id>``; return what goes to XCom.

    Parameters
    ----------
    run
        The run that the job belongs to.
    job
        The job as the ledger has it.
    properties
        The job as the service describes it.
    output_uri
        The job's own folder.
    fields
        The service's names of id, status, message, start and end, such as `HEALTHLAKE_FIELDS`.
    """
    job_id, status = (properties[name] for name in fields[:2])
    message, submitted_at, ended_at = (properties.get(name) for name in fields[2:])
    ended = EndedJob(job.batch_id, job.generation, job_id, status, message or "", job.input_uri, output_uri)
    facts = asdict(ended)
    run.ledger.record_job(replace(job, **facts, submitted_at=submitted_at, ended_at=ended_at))
    run.workspace.write(f"jobs/{job.batch_id}", JOBS, pl.DataFrame([facts], schema=JOBS))
    return {name: facts[name] for name in ("batch_id", "generation", "job_id", "status")}


def find_ended_job(run: Run[Pipeline], batch_id: str) -> EndedJob | None:
    """Return the last job of a batch; None where no job is known to have ended."""
    rows = run.workspace.find(f"jobs/{batch_id}", JOBS).to_dicts()
    return EndedJob(**rows[0]) if rows else None
