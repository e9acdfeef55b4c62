"""Which resource of the batch each result line is about; AWS does not document the shape of these lines.

Evidence is taken in this order: the line's own ``resourceType`` and ``resourceId``; those of its ``jsonBlob`` (both in
`airlock.clinical.manifests`); the result file and the ``lineId``, whose base, 0 or 1, is decided for the whole job;
where no line of a job identifies anything, equal counters and a read of every resource by its id.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.manifests import ERROR_STATUS, LINES, RESULTS, Shape, spool_lines
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.clinical.manifests import Counters, JobOutput
    from airlock.stages.jobs import EndedJob
    from airlock.storage.spool import Partitions, Spool

RESOURCE = ["file", "resource_type", "resource_id"]
NO_BASE = "lineId, of which nothing tells whether it counts from 0 or from 1"
_PLACE = ["file", "staged_line"]


def below(key: pl.Expr, job: EndedJob) -> pl.Expr:
    """Return an import file as result lines name it: its key below the job's prefix."""
    return key.str.strip_prefix(S3Uri.parse(job.input_uri).key)


def identify(sent: Spool, job: EndedJob, output: JobOutput, partitions: Partitions | None = None) -> JobOutput:
    """Return a job's output with the resource of every line that has a lineId alone.

    Parameters
    ----------
    sent
        The batch's list (rows of the batches dataset), partitioned as the lines are.
    job
        The batch's job.
    output
        The job's output. Where the base of its lineIds is not certain, lines that have nothing else are unread.
    partitions
        Where the lines that are returned are set aside; without it all are in memory.
    """
    if not any(part["resource_id"].null_count() for part in output.lines):
        return output
    parts = [_Part(sent, output.lines, number, job) for number in range(output.lines.partitions)]
    bases = {base for part in parts for base in part.bases()}
    possible = [base for base in (0, 1) if not bases or bases == {base}]
    fitting = [base for base in possible if all(part.placed(base) is not None for part in parts)]
    unread = Counter(output.unread)
    if len(fitting) == 1:
        frames = (rows for part in parts for rows in (part.named(), part.placed(fitting[0])) if rows is not None)
    else:
        frames = (part.named() for part in parts)
        for part in parts:
            unread += _unplaced(part.numbered())
    return replace(output, lines=spool_lines(partitions, frames), unread=unread)


@dataclass(frozen=True)
class _Part:
    """A partition of a batch's list and of the lines about it, read anew each time."""

    sent: Spool
    lines: Spool
    number: int
    job: EndedJob

    def numbered(self) -> pl.DataFrame:
        """Return the lines that have a lineId alone."""
        return self._lines().filter(pl.col("resource_id").is_null())

    def named(self) -> pl.DataFrame:
        """Return the lines that name their resource."""
        return self._lines().filter(pl.col("resource_id").is_not_null())

    def bases(self) -> list[int]:
        """Return what is added to a lineId to have the staged line, as lines that have both say it."""
        both = self.named().join(self._rows(), on=RESOURCE).filter(pl.col("line_id").is_not_null())
        return (both["staged_line"] - both["line_id"]).unique().to_list()

    def placed(self, base: int) -> pl.DataFrame | None:
        """Return the numbered lines with their resources; None unless each has one, and of the type that it names."""
        named = self.numbered().rename({"resource_type": "given_type"}).drop("resource_id")
        numbered = named.with_columns(staged_line=pl.col("line_id") + base)
        found = numbered.join(self._rows(), on=_PLACE, how="left", maintain_order="left")
        fits = (pl.coalesce("given_type", "resource_type") == pl.col("resource_type")).fill_null(value=False)
        return found.select(LINES.names()) if found.select(fits.all()).item() else None

    def _rows(self) -> pl.DataFrame:
        rows = self.sent.partition(self.number)
        return rows.select(*RESOURCE[1:], "staged_line", file=below(pl.col("staged_key"), self.job))

    def _lines(self) -> pl.DataFrame:
        return self.lines.partition(self.number).with_columns(file=below(pl.col("file"), self.job))


def _unplaced(numbered: pl.DataFrame) -> Counter[Shape]:
    stored = (pl.col("kind") == "success") & (pl.col("status_code").fill_null(0) < ERROR_STATUS)
    counted = numbered.group_by("kind", stored=stored).len()
    return Counter({Shape(RESULTS[kind], NO_BASE, is_stored): count for kind, is_stored, count in counted.iter_rows()})


def names_nothing(sent: Spool, job: EndedJob, output: JobOutput, progress: Counters) -> bool:
    """Return whether a job claims to have stored its whole batch, in as many lines, none of which names a resource.

    Parameters
    ----------
    sent, job
        As for `identify`.
    output
        What `identify` returned.
    progress
        What the job reported of itself.
    """
    number, counted = sent.rows, output.counters
    return (
        job.status == "COMPLETED"
        and output.manifest_found
        and not output.lines.rows
        and all(shape.stored for shape in output.unread)
        and output.unreadable_lines == number
        and (counted.scanned, counted.imported) == (number, number)
        and (counted.customer_errors, counted.server_errors) == (0, 0)
        and progress.scanned in (None, number)
        and progress.imported in (None, number)
        and not progress.customer_errors
        and counted.files_scanned in (None, count_files(sent))
    )


def count_files(sent: Spool) -> int:
    """Return the number of import files of a batch."""
    return sum(part["staged_key"].n_unique() for part in sent)


def as_read(
    sent: Spool, job: EndedJob, output: JobOutput, wrong: pl.DataFrame, partitions: Partitions | None = None
) -> JobOutput:
    """Return a job's output with a line for each resource that was read as it was sent, and none without a name.

    Parameters
    ----------
    sent, job, output
        As for `names_nothing`.
    wrong
        The resources (resource_type, resource_id) that the data store does not hold as they were sent.
    partitions
        As for `identify`.
    """
    read = {"kind": pl.lit("read"), "file": below(pl.col("staged_key"), job)}
    facts = {name: pl.lit(None, kind) for name, kind in LINES.items() if name not in RESOURCE} | read
    right = (rows.join(wrong, on=RESOURCE[1:], how="anti", maintain_order="left") for rows in sent)
    frames = (rows.select(*RESOURCE[1:], **facts).select(LINES.names()) for rows in right)
    return replace(output, lines=spool_lines(partitions, frames), unread=output.unread if wrong.height else {})
