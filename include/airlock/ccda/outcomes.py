"""Outcomes: the result of every document's conversion, from the files in the job's output folder.

Job status proves nothing: a document is converted only if the folder has a result for it, and no error.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ccda.manifests import CONVERTED, DRIFT, ERRORS, JobOutput, read_progress
from airlock.ccda.records import BATCHES, CONVERSIONS
from airlock.reasons import Reason
from airlock.stages.auditing import missing_job_reason
from airlock.stages.jobs import find_ended_job
from airlock.stages.outputs import DETAIL_LENGTH
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.jobs import EndedJob

_FAILED = "FAILED"  # the service's status


def account_batch(run: Run[CcdaPipeline], batch: Batch) -> pl.DataFrame:
    """Return the result of each document of a batch as a row of the dataset ``conversions``."""
    documents = run.workspace.read(f"batches/{batch.batch_id}", BATCHES)
    job = find_ended_job(run, batch.batch_id)
    if job is not None:
        output = JobOutput(run.s3, S3Uri.parse(job.output_uri))
        disagree = _do_counts_disagree(read_progress(run.workspace, batch.batch_id), documents, output)
        least = run.pipeline.transformation.min_coverage
        found = [_find_outcome(row, output, job, least, disagree=disagree) for row in documents.iter_rows(named=True)]
    else:
        absent = missing_job_reason(run.ledger.job(batch.batch_id))
        found = [{"reason": row["reason"] or str(absent)} for row in documents.iter_rows(named=True)]
    rows = [
        {"arrival_id": arrival, "batch_id": batch.batch_id, **outcome}
        for arrival, outcome in zip(documents["arrival_id"], found, strict=True)
    ]
    return pl.DataFrame(rows, schema=CONVERSIONS)


def _do_counts_disagree(progress: dict[str, Any], documents: pl.DataFrame, output: JobOutput) -> bool:
    """Return whether the job's own counts differ from the documents that were sent or the files in its folder."""
    sent = documents.filter(pl.col("reason").is_null()).height
    expected = {
        "TotalFilesScanned": sent,
        "TotalFilesConverted": output.count_files(CONVERTED),
        "TotalFilesFailed": output.count_files(ERRORS),
    }
    return any(name in progress and progress[name] != number for name, number in expected.items())


def _find_outcome(
    row: dict[str, Any], output: JobOutput, job: EndedJob, least_coverage: float, *, disagree: bool
) -> dict[str, Any]:
    stem = PurePosixPath(row["staged_key"]).stem
    converted = output.find_file(CONVERTED, stem, ".ndjson", ".xml.ndjson")
    error = output.find_file(ERRORS, stem, ".json", ".xml.json")
    drift = output.read_json(output.find_file(DRIFT, stem, "_driftMetrics.json", ".xml_driftMetrics.json"))
    coverage = drift.get("overallCoverageRate")
    outcome: dict[str, Any] = {"coverage": float(coverage) if isinstance(coverage, int | float) else None}
    if row["reason"]:
        return outcome | {"reason": row["reason"]}
    if error is not None:
        message = str(output.read_json(error).get("errorMessage") or "")[:DETAIL_LENGTH]
        return outcome | {"reason": str(Reason.CONVERSION_FAILED), "detail": message or None}
    if converted is None:
        return outcome | _explain_no_result(job)
    if disagree:
        return outcome | {"reason": str(Reason.JOB_COUNTS_DISAGREE)}
    if not _is_covered(outcome["coverage"], least_coverage):
        return outcome | {"reason": str(Reason.CONVERSION_DRIFT), "detail": f"coverage {outcome['coverage']}"}
    address = {"bucket": output.folder.bucket, "key": converted.key, "etag": converted.etag, "size": converted.size}
    return outcome | address | {"last_modified": converted.last_modified}


def _explain_no_result(job: EndedJob) -> dict[str, Any]:
    if job.status == _FAILED:
        return {"reason": str(Reason.JOB_FAILED), "detail": job.message[:DETAIL_LENGTH] or None}
    return {"reason": str(Reason.CONVERSION_MISSING)}


def _is_covered(coverage: float | None, least: float) -> bool:
    return not least or (coverage is not None and coverage >= least)
