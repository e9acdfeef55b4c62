"""Audit: what became of every document in its conversion, by the files that the job left; and what goes on as FHIR.

Writes ``conversions`` and ``conversion.json`` and, in the workspace's folder ``fhir``, the datasets that a buffer would
have frozen: the converted NDJSON files stand there for their documents, under the documents' arrival ids, and what was
not converted stands there with its reason. So the books of the run close over every document. Nothing goes on before
every conversion has ended, since what is decided in that folder stands once its import was begun.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ccda.records import BATCHES, CONVERSIONS, FOLDER, VERDICTS
from airlock.reasons import Reason
from airlock.records import ARRIVALS, Verdict
from airlock.stages.auditing import is_open, missing_job_reason
from airlock.stages.batches import find_batches, find_begun_batches
from airlock.stages.buffer import INDEX, Buffered, find_buffered, find_shards, read_arrivals
from airlock.stages.jobs import find_ended_job
from airlock.stages.outputs import DETAIL_LENGTH
from airlock.stages.resources import FILES, chunks_index
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.jobs import EndedJob
    from airlock.storage.s3 import S3, ListedObject

ASIDE = "aside"  # the shard of the documents from which nothing goes on
_CONVERTED, _ERRORS = "converted/", "ERROR/"
_DRIFT = "driftDetectionPerFileResults/"
_FAILED = "FAILED"  # the service's word


def audit(run: Run[CcdaPipeline]) -> list[str]:
    """Account for every document of a run; what went on stands once its import was begun.

    Returns
    -------
    list of str
        The shards of the folder ``fhir`` that are to be parsed.
    """
    leg = run.within(FOLDER)
    if find_begun_batches(leg):
        return [shard for shard in find_shards(leg) if shard != ASIDE]
    arrivals = read_arrivals(run)
    frames = [CONVERSIONS.to_frame(), *(_account(run, batch) for batch in find_batches(run))]
    conversions = pl.concat(frames)
    verdicts = run.workspace.find("verdicts", VERDICTS)
    run.workspace.write("conversions", CONVERSIONS, conversions)
    run.workspace.write_json("conversion.json", _summary(run, arrivals, conversions))
    return _freeze(run, arrivals, verdicts, conversions)


def _account(run: Run[CcdaPipeline], batch: Batch) -> pl.DataFrame:
    documents = run.workspace.read(f"batches/{batch.batch_id}", BATCHES)
    job = find_ended_job(run, batch.batch_id)
    if job is not None:
        output = _Output(run.s3, S3Uri.parse(job.output_uri))
        disagree = _counts_disagree(run, batch, documents, output)
        found = [_outcome(run, row, output, job, disagree) for row in documents.iter_rows(named=True)]
    else:
        absent = missing_job_reason(run.ledger.job(batch.batch_id))
        found = [{"reason": row["reason"] or str(absent)} for row in documents.iter_rows(named=True)]
    rows = [
        {"arrival_id": arrival, "batch_id": batch.batch_id, **outcome}
        for arrival, outcome in zip(documents["arrival_id"], found, strict=True)
    ]
    return pl.DataFrame(rows, schema=CONVERSIONS)


class _Output:
    """A job's output folder, its files by the name of the input they are about."""

    def __init__(self, s3: S3, folder: S3Uri) -> None:
        self.s3 = s3
        self.folder = folder
        self.files = {item.key.removeprefix(folder.key): item for item in s3.list_objects(folder)}

    def about(self, below: str, stem: str, *endings: str) -> ListedObject | None:
        """Return the file about an input, whether or not its name keeps the input's extension."""
        return next((item for end in endings if (item := self.files.get(f"{below}{stem}{end}"))), None)

    def json(self, item: ListedObject | None) -> dict[str, Any]:
        """Return a small JSON object, empty where there is none that can be read."""
        if item is None:
            return {}
        try:
            content = json.loads(self.s3.get(S3Uri(self.folder.bucket, item.key)))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}  # as one that says nothing: the document is then accounted for without it
        return content if isinstance(content, dict) else {}

    def count(self, below: str) -> int:
        """Return how many files lie in a folder."""
        return sum(name.startswith(below) for name in self.files)


def _counts_disagree(run: Run[CcdaPipeline], batch: Batch, documents: pl.DataFrame, output: _Output) -> bool:
    """Say whether the job's own counts contradict what was sent or what it left."""
    progress = json.loads(run.s3.get(run.workspace.root.join(f"jobs/{batch.batch_id}/progress.json")))
    sent = documents.filter(pl.col("reason").is_null()).height
    expected = {
        "TotalFilesScanned": sent,
        "TotalFilesConverted": output.count(_CONVERTED),
        "TotalFilesFailed": output.count(_ERRORS),
    }
    return any(name in progress and progress[name] != number for name, number in expected.items())


def _outcome(
    run: Run[CcdaPipeline], row: dict[str, Any], output: _Output, job: EndedJob, disagree: bool
) -> dict[str, Any]:
    stem = PurePosixPath(row["staged_key"]).stem
    converted = output.about(_CONVERTED, stem, ".ndjson", ".xml.ndjson")
    error = output.about(_ERRORS, stem, ".json", ".xml.json")
    drift = output.json(output.about(_DRIFT, stem, "_driftMetrics.json", ".xml_driftMetrics.json"))
    coverage = drift.get("overallCoverageRate")
    outcome: dict[str, Any] = {"coverage": float(coverage) if isinstance(coverage, int | float) else None}
    if row["reason"]:
        return outcome | {"reason": row["reason"]}
    if error is not None:
        message = str(output.json(error).get("errorMessage") or "")[:DETAIL_LENGTH]
        return outcome | {"reason": str(Reason.CONVERSION_FAILED), "detail": message or None}
    if converted is None:
        return outcome | _without_result(job)
    if disagree:
        return outcome | {"reason": str(Reason.JOB_COUNTS_DISAGREE)}
    if not _covers(outcome["coverage"], run.pipeline.transformation.min_coverage):
        return outcome | {"reason": str(Reason.CONVERSION_DRIFT), "detail": f"coverage {outcome['coverage']}"}
    place = {"bucket": output.folder.bucket, "key": converted.key, "etag": converted.etag, "size": converted.size}
    return outcome | place | {"last_modified": converted.last_modified}


def _without_result(job: EndedJob) -> dict[str, Any]:
    """Say why a document has neither a result nor an error."""
    if job.status == _FAILED:
        return {"reason": str(Reason.JOB_FAILED), "detail": job.message[:DETAIL_LENGTH] or None}
    return {"reason": str(Reason.CONVERSION_MISSING)}


def _covers(coverage: float | None, least: float) -> bool:
    return not least or (coverage is not None and coverage >= least)


def _summary(run: Run[CcdaPipeline], arrivals: pl.DataFrame, conversions: pl.DataFrame) -> dict[str, Any]:
    converted = conversions.filter(pl.col("reason").is_null())
    coverage = conversions["coverage"].drop_nulls()
    return {
        "preview": True,
        "profile_id": run.pipeline.transformation.profile_id,
        "profile_version": run.pipeline.transformation.profile_version,
        "documents": arrivals.height,
        "sent": conversions.height,
        "converted": converted.height,
        "lowest_coverage": coverage.min(),
        "mean_coverage": coverage.mean(),
    }


def _freeze(
    run: Run[CcdaPipeline], arrivals: pl.DataFrame, verdicts: pl.DataFrame, conversions: pl.DataFrame
) -> list[str]:
    """Write what the stages of the folder ``fhir`` find instead of a delivery."""
    leg = run.within(FOLDER)
    files = _converted(conversions)
    size = run.pipeline.parse.shard_size
    shards = [f"{number:04}" for number in range(-(-files.height // size))]
    for number, shard in enumerate(shards):
        leg.workspace.write(f"arrivals/{shard}", ARRIVALS, files.slice(number * size, size))
    aside = arrivals.join(files, on="arrival_id", how="anti", maintain_order="left")
    leg.workspace.write(f"arrivals/{ASIDE}", ARRIVALS, aside)
    leg.workspace.write(f"files/{ASIDE}", FILES, _set_aside(aside, verdicts, conversions))
    leg.workspace.write_json(chunks_index(ASIDE), {"chunks": []})
    buffered = find_buffered(run) or Buffered()
    leg.workspace.write_json(INDEX, vars(buffered) | {"shards": [*shards, ASIDE]})
    return shards


def _converted(conversions: pl.DataFrame) -> pl.DataFrame:
    """Return the converted files as arrivals; none while a conversion is open, so that those that ended wait for it."""
    waits = conversions.select(is_open().any()).item()
    converted = conversions.clear() if waits else conversions.filter(pl.col("reason").is_null())
    return converted.with_columns(version_id=pl.lit(None, pl.String)).select(ARRIVALS.names()).cast(ARRIVALS)


def _set_aside(aside: pl.DataFrame, verdicts: pl.DataFrame, conversions: pl.DataFrame) -> pl.DataFrame:
    """Return the reason of every document from which nothing goes on."""
    before = verdicts.filter(pl.col("verdict") != Verdict.ACCEPT).select("arrival_id", "reason", "detail")
    after = conversions.filter(pl.col("reason").is_not_null()).select("arrival_id", "reason", "detail")
    known = aside.select("arrival_id").join(
        pl.concat([before, after]), on="arrival_id", how="left", maintain_order="left"
    )
    undecided = pl.col("reason").fill_null(str(Reason.UNDECIDED))
    counted = known.with_columns(reason=undecided, units=pl.lit(0, pl.Int64), bytes_read=pl.lit(0, pl.Int64))
    return counted.select(FILES.names()).cast(FILES)
