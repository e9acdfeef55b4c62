"""Outcomes: match every result line of every job to the batch's own list, and say what became of each resource.

Job status proves nothing: only a line that names a resource of the batch, among the results of the file that it was
sent in, makes an outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.manifests import ERROR_STATUS
from airlock.clinical.records import OPERATION_OUTCOMES
from airlock.clinical.result_lines import RESOURCE, below
from airlock.reasons import Reason
from airlock.records import Outcome
from airlock.stages.outputs import DETAIL_LENGTH
from airlock.stages.resources import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.clinical.manifests import Counters, JobOutput
    from airlock.stages.jobs import EndedJob

IMPORTED = (Outcome.IMPORTED.value, Outcome.IMPORTED_WITH_WARNING.value)
FAILED = ("FAILED", "CANCEL_COMPLETED", "CANCEL_FAILED")


def account(
    rows: pl.DataFrame,
    job: EndedJob | None,
    output: JobOutput | None,
    absent: Reason = Reason.JOB_NOT_STARTED,
) -> pl.DataFrame:
    """Give every resource of one batch its outcome.

    Parameters
    ----------
    rows
        The batch's list (rows of the batches dataset).
    job
        The batch's job; None when no job is known to have ended.
    output
        What that job left; None without a job.
    absent
        The reason when there is no such job.

    Returns
    -------
    polars.DataFrame
        Rows of the outcomes dataset, one per resource.
    """
    if job is None or output is None:
        known = rows.with_columns(
            outcome=pl.lit(Outcome.UNACCOUNTED.value),
            reason=pl.lit(absent.value),
            detail=pl.lit(None, pl.String),
            job_id=pl.lit(None, pl.String),
        )
    else:
        known = _sent(rows, job).join(_per_resource(output, job), on=RESOURCE, how="left", maintain_order="left")
        known = known.with_columns(outcome=_outcome()).with_columns(
            reason=_reason(job, output),
            detail=pl.when(pl.col("outcome") != Outcome.IMPORTED).then(
                pl.coalesce("detail", pl.lit(job.message or None, pl.String), _unread_of(output))
            ),
            job_id=pl.lit(job.job_id),
        )
    return known.select(OUTCOMES.names()).cast(OUTCOMES)


def _unread(output: JobOutput) -> str | None:
    """Return the shapes of the lines that name no resource; None where all do."""
    told = sorted(f"{count} in {shape.folder} have {shape.fields}" for shape, count in output.unread.items())
    return "; ".join(told)[:DETAIL_LENGTH] or None


def _unread_of(output: JobOutput) -> pl.Expr:
    return pl.when(pl.col("outcome") == Outcome.UNACCOUNTED).then(pl.lit(_unread(output), pl.String))


def _sent(rows: pl.DataFrame, job: EndedJob) -> pl.DataFrame:
    """Add the import file as result lines have it: its place below the job's prefix."""
    return rows.with_columns(file=below(pl.col("staged_key"), job))


def _lines(output: JobOutput, job: EndedJob) -> pl.DataFrame:
    return output.lines.with_columns(file=below(pl.col("file"), job))


def _per_resource(output: JobOutput, job: EndedJob) -> pl.DataFrame:
    """Fold a resource's lines into one row: one with a warning may be listed as a success too."""
    fails = (pl.col("kind") == "failure") | (pl.col("status_code") >= ERROR_STATUS).fill_null(value=False)
    return (
        _lines(output, job)
        .group_by(RESOURCE)
        .agg(
            succeeded=(pl.col("kind") != "failure").any(),
            warned=(pl.col("kind") == "warning").any(),
            failed=fails.any(),
            status_code=pl.col("status_code").max(),
            detail=pl.col("detail").drop_nulls().first(),
        )
    )


def _outcome() -> pl.Expr:
    contradictory = pl.col("succeeded") & pl.col("failed")
    return (
        pl.when(pl.col("succeeded").is_null() | contradictory)
        .then(pl.lit(Outcome.UNACCOUNTED.value))
        .when(pl.col("failed") & (pl.col("status_code") >= 500))
        .then(pl.lit(Outcome.SERVER_ERROR.value))
        .when("failed")
        .then(pl.lit(Outcome.REJECTED.value))
        .when("warned")
        .then(pl.lit(Outcome.IMPORTED_WITH_WARNING.value))
        .otherwise(pl.lit(Outcome.IMPORTED.value))
    )


def _reason(job: EndedJob, output: JobOutput) -> pl.Expr:
    unnamed = Reason.NOT_IN_MANIFEST if output.manifest_found else Reason.MANIFEST_MISSING
    reasons = {
        Outcome.REJECTED: Reason.REJECTED,
        Outcome.SERVER_ERROR: Reason.SERVER_ERROR,
        Outcome.IMPORTED_WITH_WARNING: Reason.STORED_WITH_ISSUES,
        Outcome.UNACCOUNTED: Reason.JOB_FAILED if job.status in FAILED else unnamed,
    }
    return pl.col("outcome").replace_strict(
        {str(outcome): str(reason) for outcome, reason in reasons.items()}, default=None, return_dtype=pl.String
    )


def operation_outcomes(rows: pl.DataFrame, job: EndedJob, output: JobOutput) -> pl.DataFrame:
    """Return the OperationOutcomes that a job gave, rows of that dataset: one per resource of the batch at most."""
    given = _lines(output, job).filter(pl.col("outcome").is_not_null())
    first = given.unique(RESOURCE, keep="first", maintain_order=True).select(*RESOURCE, "outcome")
    named = _sent(rows, job).join(first, on=RESOURCE, how="inner", maintain_order="left")
    return named.with_columns(source=pl.lit("import")).select(OPERATION_OUTCOMES.names()).cast(OPERATION_OUTCOMES)


def discrepancies(rows: pl.DataFrame, job: EndedJob, output: JobOutput, progress: Counters) -> list[str]:
    """Say where a job's counts and lines differ from the batch's list and from each other.

    Parameters
    ----------
    rows, job, output
        As for `account`.
    progress
        What the job reported of itself.

    Returns
    -------
    list of str
        Sentences without identifiers; empty when all agree.
    """
    return [
        *_odd_lines(rows, job, output),
        *_odd_counts(rows, output.counters),
        *_lines_against_counts(job, output),
        *_odd_progress(progress, output.counters),
    ]


def _odd_lines(rows: pl.DataFrame, job: EndedJob, output: JobOutput) -> Iterator[str]:
    if not output.manifest_found:
        yield "the job wrote no manifest in time"
    lines = _lines(output, job)
    foreign = lines.unique(RESOURCE).join(_sent(rows, job), on=RESOURCE, how="anti").height
    if foreign:
        yield f"{foreign} resources of the result lines are not in the batch"
    repeated = lines.height - lines.select("kind", *RESOURCE).n_unique()
    if repeated:
        yield f"{repeated} result lines repeat another one"
    if output.unreadable_lines:
        yield f"{output.unreadable_lines} result lines cannot be read or name no resource: {_unread(output)}"


def _odd_counts(rows: pl.DataFrame, counted: Counters) -> Iterator[str]:
    if counted.scanned is not None and counted.scanned != rows.height:
        yield f"the job scanned {counted.scanned} resources, the batch has {rows.height}"
    files = rows["staged_key"].n_unique()
    if counted.files_scanned is not None and counted.files_scanned != files:
        yield f"the job scanned {counted.files_scanned} files, the batch has {files}"
    parts = (counted.imported, counted.customer_errors, counted.server_errors)
    known = [part for part in parts if part is not None]
    if counted.scanned is not None and len(known) == len(parts) and counted.scanned != sum(known):
        yield f"the manifest counts {counted.scanned} scanned resources, but {sum(known)} imported or failed ones"


def _lines_against_counts(job: EndedJob, output: JobOutput) -> Iterator[str]:
    """Hold the lines to the counters; what the service lost by its own fault may have no line."""
    words = _per_resource(output, job).with_columns(word=_outcome())["word"]
    imported, rejected = int(words.is_in(IMPORTED).sum()), int((words == Outcome.REJECTED).sum())
    counted = output.counters
    if counted.imported is not None and counted.imported != imported:
        yield f"the manifest counts {counted.imported} imported resources, the lines name {imported}"
    if counted.customer_errors is not None and counted.customer_errors != rejected:
        yield f"the manifest counts {counted.customer_errors} rejected resources, the lines name {rejected}"
    told = bool(counted.customer_errors or counted.server_errors) or imported < words.len()
    if job.status == "COMPLETED_WITH_ERRORS" and output.manifest_found and not told:
        yield "the job ended with errors, but neither its manifest nor its lines tell of any"


def _odd_progress(progress: Counters, counted: Counters) -> Iterator[str]:
    for what, reported, written in (
        ("scanned resources", progress.scanned, counted.scanned),
        ("imported resources", progress.imported, counted.imported),
        ("rejected resources", progress.customer_errors, counted.customer_errors),
        ("scanned files", progress.files_scanned, counted.files_scanned),
    ):
        if reported is not None and written is not None and reported != written:
            yield f"the job reports {reported} {what}, its manifest {written}"
