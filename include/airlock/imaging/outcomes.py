"""Outcomes: match every line of every job's output to the batch's own list, and give each file its outcome.

Job status proves nothing: only a line that names a file of the batch makes an outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.reasons import Reason
from airlock.records import OUTCOMES, Outcome
from airlock.stages.outputs import DETAIL_LENGTH

if TYPE_CHECKING:
    from collections.abc import Collection

    from polars._typing import PolarsDataType

    from airlock.imaging.manifests import JobOutput
    from airlock.stages.jobs import EndedJob

_IN_STORE = (Outcome.IMPORTED.value, Outcome.IMPORTED_WITH_WARNING.value, Outcome.NON_PRIMARY.value)
VALIDATION_EXCEPTION = "ValidationException"  # the only exception type that AWS documents for a refused file


def account(
    files: pl.DataFrame,
    job: EndedJob | None,
    output: JobOutput | None,
    absent: Reason = Reason.JOB_NOT_STARTED,
    replaced: Collection[str] = (),
) -> pl.DataFrame:
    """Return the outcome of every file of a batch.

    Parameters
    ----------
    files
        The batch's list (rows of the batches dataset).
    job
        The batch's job; None when no job is known to have ended.
    output
        The job's output; None without a job.
    absent
        The reason without a job.
    replaced
        The staged keys whose objects were replaced while the job ran: a success line proves nothing about them.

    Returns
    -------
    polars.DataFrame
        Rows of the outcomes dataset, one per file.
    """
    if job is None or output is None:
        rows = files.with_columns(
            outcome=pl.lit(Outcome.UNACCOUNTED.value),
            found=pl.lit(absent.value),
            detail=_null(pl.String),
            warnings=_null(pl.List(pl.String)),
            image_set_id=_null(pl.String),
            image_set_version=_null(pl.Int64),
            job_id=_null(pl.String),
        )
    else:
        rows = files.join(_per_file(output), on="staged_key", how="left", validate="1:1", maintain_order="left")
        rows = rows.with_columns(
            outcome=_outcome(output),
            found=_reason(job, output),
            detail=_detail(job, output),
            job_id=pl.lit(job.job_id),
        )
        rows = _discount_replaced(rows, replaced)
    unsent = pl.col("reason").is_not_null()  # the file could not be staged and was never part of the job
    return (
        rows.with_columns(
            outcome=pl.when(unsent).then(pl.lit(Outcome.UNACCOUNTED.value)).otherwise("outcome"),
            reason=pl.when(unsent).then("reason").otherwise("found"),
        )
        .select(OUTCOMES.names())
        .cast(OUTCOMES)
    )


def _discount_replaced(rows: pl.DataFrame, replaced: Collection[str]) -> pl.DataFrame:
    """Turn the successes of replaced objects into files that nothing is known about."""
    proves_nothing = pl.col("staged_key").is_in(list(replaced)) & (pl.col("outcome").is_in(_IN_STORE))
    return rows.with_columns(
        outcome=pl.when(proves_nothing).then(pl.lit(Outcome.UNACCOUNTED.value)).otherwise("outcome"),
        found=pl.when(proves_nothing).then(pl.lit(str(Reason.REPLACED_DURING_IMPORT))).otherwise("found"),
    )


def _null(kind: PolarsDataType) -> pl.Expr:
    return pl.lit(None, kind)


def _detail(job: EndedJob, output: JobOutput) -> pl.Expr:
    named = pl.concat_str(pl.col("warnings").list.join(", "), "detail", separator=": ", ignore_nulls=True)
    warned = pl.when(pl.col("warnings").list.len() > 0).then(named)
    unread = (
        f"{output.unreadable_lines} result lines cannot be read{_describe_shapes(output)}" if output.shapes else None
    )
    unnamed = pl.when(pl.col("succeeded").is_null()).then(pl.lit(unread, pl.String))
    return pl.coalesce(warned, "detail", pl.lit(job.message or None, pl.String), unnamed)


def _per_file(output: JobOutput) -> pl.DataFrame:
    """Return one row per file: a file with a warning may have a success line too."""
    return output.lines.group_by("staged_key").agg(
        succeeded=(pl.col("kind") != "failure").any(),
        failed=(pl.col("kind") == "failure").any(),
        image_set_id=pl.col("image_set_id").drop_nulls().first(),
        image_set_version=pl.coalesce(
            pl.col("image_set_version").max(),
            pl.col("image_set_id")
            .drop_nulls()
            .first()
            .replace_strict(output.image_set_versions, default=None, return_dtype=pl.Int64),
        ),
        is_primary=_find_primary(output),
        exception_type=pl.col("exception_type").drop_nulls().first(),
        detail=pl.col("detail").drop_nulls().first(),
        warnings=pl.col("warnings").explode(empty_as_null=False, keep_nulls=False).unique(maintain_order=True),
    )


def _find_primary(output: JobOutput) -> pl.Expr:
    """Return whether a file's image set is primary: False if anything says no, else True if anything says yes.

    It is null where nothing says anything.
    """
    by_line = pl.col("is_primary").drop_nulls()
    listed = pl.col("image_set_id").drop_nulls()
    no = (~by_line).any() | listed.is_in(sorted(output.non_primary_sets)).any()
    yes = by_line.any() | listed.is_in(sorted(output.primary_sets)).any()
    return pl.when(no).then(pl.lit(value=False)).when(yes).then(pl.lit(value=True))


def _outcome(output: JobOutput) -> pl.Expr:
    contradictory = pl.col("succeeded") & pl.col("failed")
    nowhere = pl.col("succeeded") & pl.col("image_set_id").is_null()  # a success without an image set proves nothing
    return (
        pl.when(pl.col("succeeded").is_null() | contradictory | nowhere)
        .then(pl.lit(Outcome.UNACCOUNTED.value))
        .when(pl.col("failed"))
        .then(pl.when(_is_server_error(output)).then(pl.lit(Outcome.SERVER_ERROR.value)).otherwise(_rejected()))
        .when(~pl.col("is_primary"))
        .then(pl.lit(Outcome.NON_PRIMARY.value))
        .when(pl.col("warnings").list.len() > 0)
        .then(pl.lit(Outcome.IMPORTED_WITH_WARNING.value))
        .otherwise(pl.lit(Outcome.IMPORTED.value))
    )


def _rejected() -> pl.Expr:
    return pl.lit(Outcome.REJECTED.value)


def _is_server_error(output: JobOutput) -> pl.Expr:
    """Return whether the service caused a failure: by the manifest's counters where they are clear, else by type."""
    customer, server = output.counters.customer_errors, output.counters.server_errors
    if server == 0:
        return pl.lit(value=False)
    if customer == 0 and server:
        return pl.lit(value=True)
    return pl.col("exception_type") != VALIDATION_EXCEPTION


def _reason(job: EndedJob, output: JobOutput) -> pl.Expr:
    unnamed = Reason.NOT_IN_MANIFEST
    if not output.manifest_found:
        unnamed = Reason.JOB_FAILED if job.status == "FAILED" else Reason.MANIFEST_MISSING
    elif job.status == "FAILED":
        unnamed = Reason.JOB_FAILED
    reasons = {
        Outcome.REJECTED: Reason.REJECTED,
        Outcome.SERVER_ERROR: Reason.SERVER_ERROR,
        Outcome.NON_PRIMARY: Reason.NON_PRIMARY,
        Outcome.IMPORTED_WITH_WARNING: Reason.SERVICE_WARNING,
        Outcome.UNACCOUNTED: unnamed,
    }
    outcome = _outcome(output)
    by_outcome = outcome.replace_strict(
        {str(outcome): str(reason) for outcome, reason in reasons.items()}, default=None, return_dtype=pl.String
    )
    unknown = outcome.is_in(_IN_STORE) & pl.col("is_primary").is_null()
    return pl.when(unknown).then(pl.lit(str(Reason.PRIMARY_UNKNOWN))).otherwise(by_outcome)


def _describe_shapes(output: JobOutput) -> str:
    """Return the shapes of the unreadable lines after a colon; nothing where none is known."""
    told = "; ".join(f"{count} have {shape}" for shape, count in sorted(output.shapes.items()))
    return f": {told}"[:DETAIL_LENGTH] if told else ""


def says_primary(output: JobOutput) -> bool:
    """Return whether any line about an imported file says if its image set is primary; true without such lines."""
    imported = output.lines.filter(pl.col("kind") != "failure")
    return not imported.height or imported["is_primary"].is_not_null().any()


def list_notes(output: JobOutput) -> dict[str, list[str]]:
    """Return the notes of a job's entry in the report, which hold nothing by themselves; empty if there are none."""
    if says_primary(output):
        return {}
    return {"notes": ["no result line says whether its image set is primary, so each image set was asked"]}


def find_discrepancies(files: pl.DataFrame, output: JobOutput) -> list[str]:
    """Return where a job's counts and lines differ from the batch's list, in sentences without identifiers."""
    sent = files.filter(pl.col("reason").is_null())["staged_key"]
    named = output.lines["staged_key"].unique()
    lines = output.lines.group_by("staged_key").agg(failed=(pl.col("kind") == "failure").any())
    failed = int(lines["failed"].sum())
    counted = output.counters
    found: list[str] = [] if output.manifest_found else ["the job wrote no manifest in time"]
    foreign = named.len() - named.is_in(sent.implode()).sum()
    if foreign:
        found.append(f"{foreign} result lines name files that are not in the batch")
    if output.unreadable_lines:
        found.append(f"{output.unreadable_lines} result lines cannot be read{_describe_shapes(output)}")
    if counted.scanned is not None and counted.scanned != sent.len():
        found.append(f"the job scanned {counted.scanned} files, the batch has {sent.len()}")
    if counted.imported is not None and counted.imported != lines.height - failed:
        found.append(f"the manifest counts {counted.imported} imported files, the lines name {lines.height - failed}")
    errors = None
    if counted.customer_errors is not None and counted.server_errors is not None:
        errors = counted.customer_errors + counted.server_errors
    if errors is not None and errors != failed:
        found.append(f"the manifest counts {errors} failed files, the lines name {failed}")
    return found
