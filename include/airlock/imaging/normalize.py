"""Normalize: build study contracts, and plan batches of whole series.

Writes ``studies``, one ``batches/<batch id>`` dataset per batch, then ``batches/index.json``, which makes them count.
`airlock.imaging.stage` gives each batch its prefix.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.contracts import draft
from airlock.imaging.resolve import find_carried_ids
from airlock.records import BATCHES, STUDIES, VERDICTS, Verdict, digest
from airlock.stages.batches import Batch, check_batch_count, find_batches, write_batches
from airlock.storage.spool import partition_hash

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from airlock.pipelines import Limits
    from airlock.run import Run

_PLANNED = ["verdict", *(name for name in VERDICTS if name in BATCHES)]
_ORDER = ("StudyInstanceUID", "SeriesInstanceUID", "key", "arrival_id")
_WRITTEN_AT_ONCE = 8  # batches; as many are in memory


def normalize(run: Run) -> list[Batch]:
    """Plan a run's batches; a second call finds them planned.

    Once a job was begun, the batches stand even if the limits change: other batches would import the same files again.
    """
    carried = find_carried_ids(run)
    needed = sum(1 for _ in plan(_leave_out(carried, _with_studies(run)), run.pipeline.limits))
    if has_job_in_datastore(run):
        return find_batches(run)
    check_batch_count(needed)
    known = {batch.batch_id for batch in find_batches(run)}  # these may be staged by now
    planned = plan(_leave_out(carried, _accepted(run, _PLANNED)), run.pipeline.limits)
    batches = list(_write_planned(run, planned, known))
    write_batches(run, batches)
    return batches


def plan_batches(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the files of each batch that `normalize` would write. Nothing is written."""
    return plan(_accepted(run, _PLANNED), run.pipeline.limits)


def has_job_in_datastore(run: Run) -> bool:
    """Return whether a job was begun for one of the run's batches, into the data store that the pipeline names now."""
    begun = {job.batch_id for job in run.ledger.jobs_of(run.key)}
    if not begun:
        return False
    planned = _read_batches(run, (batch for batch in find_batches(run) if batch.batch_id in begun))
    return any(_batch_id(run, files) in begun for files in planned)


def _batch_id(run: Run, files: pl.DataFrame) -> str:
    return digest(run.pipeline.healthimaging.datastore_id, run.key, *files["arrival_id"].sort())


def _read_batches(run: Run, batches: Iterable[Batch]) -> Iterator[pl.DataFrame]:
    return (run.workspace.read(f"batches/{batch.batch_id}", BATCHES) for batch in batches)


def _accepted(run: Run, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
    """Yield the accepted arrivals by the parts of ``verdicts``; each part has whole studies."""
    for part in run.workspace.parts("verdicts", VERDICTS, columns):
        yield part.filter(pl.col("verdict") == Verdict.ACCEPT)


def _leave_out(carried: pl.Series, parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the parts without the arrivals that a redrive carries on without an import."""
    return (part.filter(~pl.col("arrival_id").is_in(carried.implode())) for part in parts)


def _with_studies(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the accepted arrivals, and write the planned contracts of their studies."""
    with run.workspace.writer("studies", STUDIES, part_rows=None) as studies:
        for accepted in _accepted(run):
            studies.add(draft(accepted, run.pipeline))
            studies.end_part()
            yield accepted


def plan(parts: Iterable[pl.DataFrame], limits: Limits) -> Iterator[pl.DataFrame]:
    """Split accepted arrivals into batches.

    Series stay whole, and the series of a study stay together as far as the limits allow. A series that is larger than
    one job is split: the service joins a series across jobs. The boundaries of the parts make no difference.

    Parameters
    ----------
    parts
        Rows of the verdicts dataset; studies are whole in a part, and the parts in the order of `spool.partition_hash`.
    limits
        Files and bytes per job.
    """
    pending: list[pl.DataFrame] = []
    files = size = 0
    for part in parts:
        ordered = part.sort(partition_hash(pl.col("StudyInstanceUID")), *_ORDER)
        first = end = 0
        for more_files, more_bytes in _measure_pieces(ordered, limits):
            if files and (files + more_files > limits.files_per_job or size + more_bytes > limits.bytes_per_job):
                yield pl.concat([*pending, ordered[first:end]])
                pending, files, size, first = [], 0, 0, end
            files, size, end = files + more_files, size + more_bytes, end + more_files
        pending.append(ordered[first:])
    if files:
        yield pl.concat(pending)


def _measure_pieces(ordered: pl.DataFrame, limits: Limits) -> Iterator[tuple[int, int]]:
    """Yield files and bytes of each series, or of each piece of a series that is larger than one job."""
    series = ordered.group_by("StudyInstanceUID", "SeriesInstanceUID", maintain_order=True).agg("size")
    sums = series.select(pl.col("size").list.len(), pl.col("size").list.sum().alias("bytes"))
    for number, (files, total) in enumerate(sums.iter_rows()):
        if files <= limits.files_per_job and total <= limits.bytes_per_job:
            yield files, total
        else:
            yield from _cut_series(series["size"][number], limits)


def _cut_series(sizes: Iterable[int], limits: Limits) -> Iterator[tuple[int, int]]:
    files = total = 0
    for more in sizes:
        if files and (files == limits.files_per_job or total + more > limits.bytes_per_job):
            yield files, total
            files = total = 0
        files, total = files + 1, total + more
    yield files, total


def _write_planned(run: Run, planned: Iterable[pl.DataFrame], known: Collection[str]) -> Iterator[Batch]:
    """Write some batches at the same time, for S3 takes longer than the planning; yield all of them in their order."""
    with ThreadPoolExecutor(_WRITTEN_AT_ONCE) as pool:
        underway: deque[Future[Batch]] = deque()
        for files in planned:
            if len(underway) == _WRITTEN_AT_ONCE:
                yield underway.popleft().result()
            underway.append(pool.submit(_write_batch, run, files, known))
        yield from (batch.result() for batch in underway)


def _write_batch(run: Run, files: pl.DataFrame, known: Collection[str]) -> Batch:
    """Write a batch's files without staged keys, unless an earlier try has written them."""
    batch_id = _batch_id(run, files)
    if batch_id not in known:
        rows = files.with_columns(
            pl.lit(None, pl.String).alias(name) for name in ("staged_bucket", "staged_key", "reason")
        )
        run.workspace.write(
            f"batches/{batch_id}",
            BATCHES,
            rows.with_columns(batch_id=pl.lit(batch_id)).select(BATCHES.names()).cast(BATCHES),
        )
    return Batch(batch_id, "", files.height, int(files["size"].sum()))
