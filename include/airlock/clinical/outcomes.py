"""Outcomes: match every result line of every job to the batch's own list, and return the outcome of each resource.

Job status proves nothing: only a line that names a resource of the batch, in the results of the import file that has
the resource, makes an outcome.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.manifests import ERROR_STATUS
from airlock.clinical.records import OPERATION_OUTCOMES
from airlock.clinical.result_lines import RESOURCE, below, count_files
from airlock.reasons import Reason
from airlock.records import Outcome
from airlock.stages.outputs import DETAIL_LENGTH
from airlock.stages.resources import OUTCOMES
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.clinical.manifests import Counters, JobOutput
    from airlock.stages.jobs import EndedJob
    from airlock.storage.spool import Spool

IMPORTED = (Outcome.IMPORTED.value, Outcome.IMPORTED_WITH_WARNING.value)
FAILED = ("FAILED", "CANCEL_COMPLETED", "CANCEL_FAILED")


def account(
    sent: Spool,
    job: EndedJob | None,
    output: JobOutput | None,
    absent: Reason = Reason.JOB_NOT_STARTED,
) -> Iterator[pl.DataFrame]:
    """Yield the outcome of every resource of a batch, partition by partition.

    Parameters
    ----------
    sent
        The batch's list (rows of the batches dataset), partitioned as the lines are.
    job
        The batch's job; None if no job is known to have ended.
    output
        The job's output; None without a job.
    absent
        The reason of the outcomes if there is no job.

    Yields
    ------
    polars.DataFrame
        Rows of the outcomes dataset, one per resource.
    """
    none = pl.lit(None, pl.String)
    if job is None or output is None:
        unknown = {"outcome": pl.lit(Outcome.UNACCOUNTED.value), "reason": pl.lit(absent.value)}
        for rows in sent:
            found = rows.with_columns(**unknown, detail=none, job_id=none)
            yield found.select(OUTCOMES.names()).cast(OUTCOMES)
        return
    for rows, lines in zip_partitions(sent, output.lines):
        known = _add_file_names(rows, job).join(
            _sum_by_resource(lines, job), on=RESOURCE, how="left", maintain_order="left"
        )
        found = known.with_columns(outcome=_outcome()).with_columns(
            reason=_reason(job, output),
            detail=pl.when(pl.col("outcome") != Outcome.IMPORTED).then(
                pl.coalesce("detail", pl.lit(job.message or None, pl.String), _unread_detail(output))
            ),
            job_id=pl.lit(job.job_id),
        )
        yield found.select(OUTCOMES.names()).cast(OUTCOMES)


def _describe_unread(output: JobOutput) -> str | None:
    """Return the shapes of the lines that name no resource; None if there are none."""
    described = sorted(f"{count} in {shape.folder} have {shape.fields}" for shape, count in output.unread.items())
    return "; ".join(described)[:DETAIL_LENGTH] or None


def _unread_detail(output: JobOutput) -> pl.Expr:
    return pl.when(pl.col("outcome") == Outcome.UNACCOUNTED).then(pl.lit(_describe_unread(output), pl.String))


def _add_file_names(rows: pl.DataFrame, job: EndedJob) -> pl.DataFrame:
    """Add the column ``file``: the import file as result lines name it, its key below the job's prefix."""
    return rows.with_columns(file=below(pl.col("staged_key"), job))


def _shorten_file_names(lines: pl.DataFrame, job: EndedJob) -> pl.DataFrame:
    return lines.with_columns(file=below(pl.col("file"), job))


def _sum_by_resource(lines: pl.DataFrame, job: EndedJob) -> pl.DataFrame:
    """Return the lines as one row per resource, since a resource with a warning may have a success line too."""
    fails = (pl.col("kind") == "failure") | (pl.col("status_code") >= ERROR_STATUS).fill_null(value=False)
    return (
        _shorten_file_names(lines, job)
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


def operation_outcomes(sent: Spool, job: EndedJob, output: JobOutput) -> Iterator[pl.DataFrame]:
    """Yield the OperationOutcomes of a job, as rows of the dataset of that name: at most one per resource."""
    for number in range(sent.partitions):
        given = _shorten_file_names(output.part(number), job).filter(pl.col("outcome").is_not_null())
        if not given.height:
            continue
        first = given.unique(RESOURCE, keep="first", maintain_order=True).select(*RESOURCE, "outcome")
        named = _add_file_names(sent.partition(number), job).join(
            first, on=RESOURCE, how="inner", maintain_order="left"
        )
        yield named.with_columns(source=pl.lit("import")).select(OPERATION_OUTCOMES.names()).cast(OPERATION_OUTCOMES)


def find_discrepancies(sent: Spool, job: EndedJob, output: JobOutput, progress: Counters) -> list[str]:
    """Return the differences between a job's counts, its result lines and the batch's list.

    Parameters
    ----------
    sent, job, output
        As for `account`.
    progress
        The counts that the job reported when it ended.

    Returns
    -------
    list of str
        Sentences without identifiers; empty if there is no difference.
    """
    found: Counter[str] = Counter()
    for rows, lines in zip_partitions(sent, output.lines):
        found.update(_count_lines(rows, _shorten_file_names(lines, job), job))
    return [
        *_check_lines(found, output),
        *_check_counts(sent, output.counters),
        *_compare_lines_with_counts(found, job, output),
        *_compare_progress_with_counts(progress, output.counters),
    ]


def _count_lines(rows: pl.DataFrame, lines: pl.DataFrame, job: EndedJob) -> dict[str, int]:
    """Return the counts of a partition's lines by their kind and outcome."""
    outcomes = _sum_by_resource(lines, job).select(outcome=_outcome())["outcome"]
    return {
        "foreign": lines.unique(RESOURCE).join(_add_file_names(rows, job), on=RESOURCE, how="anti").height,
        "repeated": lines.height - lines.select("kind", *RESOURCE).n_unique(),
        "named": outcomes.len(),
        "imported": int(outcomes.is_in(IMPORTED).sum()),
        "rejected": int((outcomes == Outcome.REJECTED).sum()),
    }


def _check_lines(found: Counter[str], output: JobOutput) -> Iterator[str]:
    if not output.manifest_found:
        yield "the job wrote no manifest in time"
    if found["foreign"]:
        yield f"{found['foreign']} resources of the result lines are not in the batch"
    if found["repeated"]:
        yield f"{found['repeated']} result lines repeat another one"
    if output.unreadable_lines:
        yield f"{output.unreadable_lines} result lines cannot be read or name no resource: {_describe_unread(output)}"


def _check_counts(sent: Spool, counted: Counters) -> Iterator[str]:
    if counted.scanned is not None and counted.scanned != sent.rows:
        yield f"the job scanned {counted.scanned} resources, the batch has {sent.rows}"
    if counted.files_scanned is not None and counted.files_scanned != (files := count_files(sent)):
        yield f"the job scanned {counted.files_scanned} files, the batch has {files}"
    parts = (counted.imported, counted.customer_errors, counted.server_errors)
    known = [part for part in parts if part is not None]
    if counted.scanned is not None and len(known) == len(parts) and counted.scanned != sum(known):
        yield f"the manifest counts {counted.scanned} scanned resources, but {sum(known)} imported or failed ones"


def _compare_lines_with_counts(found: Counter[str], job: EndedJob, output: JobOutput) -> Iterator[str]:
    """Yield the differences between lines and counters; a resource that the service lost may have no line."""
    imported, rejected, counted = found["imported"], found["rejected"], output.counters
    if counted.imported is not None and counted.imported != imported:
        yield f"the manifest counts {counted.imported} imported resources, the lines name {imported}"
    if counted.customer_errors is not None and counted.customer_errors != rejected:
        yield f"the manifest counts {counted.customer_errors} rejected resources, the lines name {rejected}"
    are_reported = bool(counted.customer_errors or counted.server_errors) or imported < found["named"]
    if job.status == "COMPLETED_WITH_ERRORS" and output.manifest_found and not are_reported:
        yield "the job ended with errors, but neither its manifest nor its lines tell of any"


def _compare_progress_with_counts(progress: Counters, counted: Counters) -> Iterator[str]:
    for counted_thing, reported, written in (
        ("scanned resources", progress.scanned, counted.scanned),
        ("imported resources", progress.imported, counted.imported),
        ("rejected resources", progress.customer_errors, counted.customer_errors),
        ("scanned files", progress.files_scanned, counted.files_scanned),
    ):
        if reported is not None and written is not None and reported != written:
            yield f"the job reports {reported} {counted_thing}, its manifest {written}"
