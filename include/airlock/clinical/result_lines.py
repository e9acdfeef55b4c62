"""Which resource of the batch each result line is about; AWS documents no shape of these lines.

Evidence is taken in this order: the line's own ``resourceType`` and ``resourceId``; those of its ``jsonBlob`` (both in
`airlock.clinical.manifests`); the result file and the ``lineId``, whose base, 0 or 1, is decided for the whole job;
where no line of a job identifies anything, equal counters and a read of every resource by its id.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.manifests import ERROR_STATUS, LINES, RESULTS, Shape
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.clinical.manifests import Counters, JobOutput
    from airlock.stages.jobs import EndedJob

RESOURCE = ["file", "resource_type", "resource_id"]
NO_BASE = "lineId, of which nothing tells whether it counts from 0 or from 1"
_PLACE = ["file", "staged_line"]


def below(key: pl.Expr, job: EndedJob) -> pl.Expr:
    """Return an import file as result lines have it: its place below the job's prefix."""
    return key.str.strip_prefix(S3Uri.parse(job.input_uri).key)


def identify(rows: pl.DataFrame, job: EndedJob, output: JobOutput) -> JobOutput:
    """Return a job's output with the resource of every line that has a lineId alone.

    Parameters
    ----------
    rows
        The batch's list (rows of the batches dataset).
    job
        The batch's job, which has ended.
    output
        What that job left. Where the base of its lineIds is not certain, lines that have nothing else are unread.
    """
    lines = output.lines.with_columns(file=below(pl.col("file"), job))
    numbered = lines.filter(pl.col("resource_id").is_null())
    if numbered.is_empty():
        return output
    sent = rows.select(*RESOURCE[1:], "staged_line", file=below(pl.col("staged_key"), job))
    named = lines.filter(pl.col("resource_id").is_not_null())
    placed = [found for offset in _offsets(sent, named) if (found := _placed(sent, numbered, offset)) is not None]
    if len(placed) != 1:
        return replace(output, lines=named, unread=Counter(output.unread) + _unplaced(numbered))
    return replace(output, lines=pl.concat([named, placed[0]]))


def _offsets(sent: pl.DataFrame, named: pl.DataFrame) -> list[int]:
    """Return what may have to be added to a lineId to have the staged line: 0 or 1; lines that have both decide."""
    both = named.join(sent, on=RESOURCE).filter(pl.col("line_id").is_not_null())
    seen = (both["staged_line"] - both["line_id"]).unique().to_list()
    return [offset for offset in (0, 1) if not seen or seen == [offset]]


def _placed(sent: pl.DataFrame, numbered: pl.DataFrame, offset: int) -> pl.DataFrame | None:
    """Return the lines with their resources; None unless each has one, and of the type that it names."""
    told = numbered.rename({"resource_type": "told"}).drop("resource_id")
    found = told.with_columns(staged_line=pl.col("line_id") + offset).join(
        sent, on=_PLACE, how="left", maintain_order="left"
    )
    fits = (pl.coalesce("told", "resource_type") == pl.col("resource_type")).fill_null(value=False)
    return found.select(LINES.names()) if found.select(fits.all()).item() else None


def _unplaced(numbered: pl.DataFrame) -> Counter[Shape]:
    stored = (pl.col("kind") == "success") & (pl.col("status_code").fill_null(0) < ERROR_STATUS)
    counted = numbered.group_by("kind", stored=stored).len()
    return Counter({Shape(RESULTS[kind], NO_BASE, is_stored): count for kind, is_stored, count in counted.iter_rows()})


def names_nothing(rows: pl.DataFrame, job: EndedJob, output: JobOutput, progress: Counters) -> bool:
    """Say whether a job claims to have stored its whole batch, in as many lines, none of which names a resource.

    Parameters
    ----------
    rows, job
        As for `identify`.
    output
        What `identify` returned.
    progress
        What the job reported of itself.
    """
    sent, files, counted = rows.height, rows["staged_key"].n_unique(), output.counters
    return (
        job.status == "COMPLETED"
        and output.manifest_found
        and output.lines.is_empty()
        and all(shape.stored for shape in output.unread)
        and output.unreadable_lines == sent
        and (counted.scanned, counted.imported) == (sent, sent)
        and (counted.customer_errors, counted.server_errors) == (0, 0)
        and counted.files_scanned in (None, files)
        and progress.scanned in (None, sent)
        and progress.imported in (None, sent)
        and not progress.customer_errors
    )


def as_read(rows: pl.DataFrame, job: EndedJob, output: JobOutput, wrong: pl.DataFrame) -> JobOutput:
    """Return a job's output with a line for each resource that was read as it was sent, and none without a name.

    Parameters
    ----------
    rows, job, output
        As for `names_nothing`.
    wrong
        The resources (resource_type, resource_id) that the data store does not hold as they were sent.
    """
    right = rows.join(wrong, on=RESOURCE[1:], how="anti", maintain_order="left")
    known = right.select(*RESOURCE[1:], kind=pl.lit("read"), file=below(pl.col("staged_key"), job))
    missing = [pl.lit(None, kind).alias(name) for name, kind in LINES.items() if name not in known.columns]
    unread = output.unread if wrong.height else {}
    return replace(output, lines=known.with_columns(missing).select(LINES.names()), unread=unread)
