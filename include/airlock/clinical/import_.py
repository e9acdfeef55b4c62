"""Import: one HealthLake job per batch. What to check before, and what to keep of the answer.

The module's name has an underscore since ``import`` is a word of the language; the stage is ``import`` everywhere else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.manifests import keep_progress
from airlock.clinical.records import BATCHES
from airlock.imaging.import_ import Ended, StagedPrefixError, keep
from airlock.imaging.normalize import find_batches
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.imaging.normalize import Batch
    from airlock.ledger import Job
    from airlock.run import Run


def check_prefix(run: Run[Any], batch: Batch) -> None:
    """Refuse a prefix that holds more, less or other than its batch: a job imports whatever lies below it.

    Raises
    ------
    StagedPrefixError
        With the counts; clear normalize to write the batch again.
    """
    rows = run.workspace.read(f"batches/{batch.batch_id}", BATCHES)
    planned = dict(rows.group_by("staged_key").agg(pl.col("size").sum()).iter_rows())
    there = {item.key: item.size for item in run.s3.list_objects(S3Uri.parse(batch.input_uri), placeholders=True)}
    if there != planned:
        wrong = sum(there.get(key) != size for key, size in planned.items())
        raise StagedPrefixError(
            f"batch {batch.batch_id}: {wrong} of its {len(planned)} import files are missing or changed and "
            f"{len(there.keys() - planned.keys())} others lie below its prefix: clear normalize, which writes it again"
        )


def record(run: Run[Any], job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
    """Keep how a job ended, in the ledger and as the dataset ``jobs/<batch id>``; return what goes to XCom.

    Parameters
    ----------
    run
        The run the job belongs to.
    job
        As the ledger has it.
    properties
        ``ImportJobProperties`` of DescribeFHIRImportJob.
    output_uri
        The job's own folder.
    """
    keep_progress(run.workspace, job.batch_id, properties)
    made = {name: properties.get(name) for name in ("DatastoreId", "ValidationLevel")}
    run.workspace.write_json(_made(job.batch_id), made)
    ended = Ended(
        properties["JobId"],
        properties["JobStatus"],
        properties.get("Message") or "",
        properties.get("SubmitTime"),
        properties.get("EndTime"),
    )
    return keep(run, job, ended, output_uri)


def strangers(run: Run[Any], datastore_id: str, level: str) -> list[str]:
    """Say which of a run's jobs went into another data store, or at another level, than the pipeline names by now.

    Such a job proves nothing of what the pipeline names.
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
                    f"batch {batch.batch_id} was imported with {name} {made[name]}, and the pipeline names {wanted} by "
                    f"now: put that back, or take the delivery through anew"
                )
    return found


def _made(batch_id: str) -> str:
    return f"made/{batch_id}.json"
