"""Normalize: build study contracts and batches of whole series, and give each batch a prefix of its own.

Writes ``studies``, one ``batches/<batch id>`` dataset per batch, then ``batches/index.json``, which makes them count.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging.contracts import draft
from airlock.imaging.resolve import find_carried_ids
from airlock.reasons import Reason
from airlock.records import BATCHES, STUDIES, VERDICTS, Verdict, digest
from airlock.stages.batches import Batch, check_batch_count, find_batches, write_batches
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import partition_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airlock.pipelines import Limits
    from airlock.run import Run
    from airlock.storage.s3 import ListedObject

_PLANNED = ["verdict", *(name for name in VERDICTS if name in BATCHES)]
COPIES_PER_TURN = 10  # of a thread: handing over each copy alone costs more CPU than the request to S3
_ORDER = ("StudyInstanceUID", "SeriesInstanceUID", "key", "arrival_id")
_GONE = {
    "PreconditionFailed": Reason.OBJECT_CHANGED,
    "412": Reason.OBJECT_CHANGED,
    "NoSuchKey": Reason.OBJECT_GONE,
    "NoSuchVersion": Reason.OBJECT_GONE,
}


def normalize(run: Run) -> list[Batch]:
    """Plan and stage a run's batches; a second call finds them staged.

    Once a job was begun, the batches stand even if the limits change: other batches would import the same files again.
    """
    carried = find_carried_ids(run)
    needed = sum(1 for _ in plan(_leave_out(carried, _with_studies(run)), run.pipeline.limits))
    stands = has_job_in_datastore(run)
    if not stands:
        check_batch_count(needed)
    accepted = _leave_out(carried, _accepted(run, _PLANNED))
    planned = _read_batches(run, find_batches(run)) if stands else plan(accepted, run.pipeline.limits)
    given = _find_given_batches(run)
    batches = [_stage(run, files, given) for files in planned]
    write_batches(run, batches)
    return batches


def plan_batches(run: Run) -> Iterator[tuple[pl.DataFrame, bool]]:
    """Yield the files of each batch as it would be staged now, and whether they need no copy. Nothing is staged."""
    in_place = run.pipeline.staging.mode == "in_place"
    for files in plan(_accepted(run, _PLANNED), run.pipeline.limits):
        yield files, in_place and _find_clean_folder(run, files) is not None


def has_job_in_datastore(run: Run) -> bool:
    """Return whether a job was begun for one of the run's batches, into the data store that the pipeline names now."""
    begun = {job.batch_id for job in run.ledger.jobs_of(run.key)}
    if not begun:
        return False
    planned = _read_batches(run, (batch for batch in find_batches(run) if batch.batch_id in begun))
    return any(_batch_id(run, files) in begun for files in planned)


def _find_given_batches(run: Run) -> dict[str, Batch]:
    """Return, by their ids, the batches that a job was started for and has not failed to import."""
    jobs = {job.batch_id: job for job in run.ledger.jobs_of(run.key)}  # the last generation of each batch
    given = {name for name, job in jobs.items() if job.job_id and job.status != "FAILED"}
    return {batch.batch_id: batch for batch in find_batches(run) if batch.batch_id in given}


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


def _stage(run: Run, files: pl.DataFrame, given: Mapping[str, Batch]) -> Batch:
    batch_id = _batch_id(run, files)
    if batch_id in given:
        return given[batch_id]  # its job has the files, even if the prefix has changed since
    own = S3Uri.parse(run.pipeline.staging.uri).join(run.pipeline.name, run.key, batch_id, "")
    clean = _find_clean_folder(run, files) if run.pipeline.staging.mode == "in_place" else None
    prefix = clean or own
    if prefix == own:
        staged = _copy_all(run, prefix, files)
    else:
        staged = files.with_columns(staged_bucket=pl.col("bucket"), staged_key=pl.col("key"), reason=_no_reason())
    rows = staged.with_columns(batch_id=pl.lit(batch_id)).select(BATCHES.names()).cast(BATCHES)
    run.workspace.write(f"batches/{batch_id}", BATCHES, rows)
    sent = rows.filter(pl.col("reason").is_null())
    return Batch(batch_id, str(prefix), sent.height, int(sent["size"].sum()))


def _no_reason() -> pl.Expr:
    return pl.lit(None, pl.String)


def _find_clean_folder(run: Run, files: pl.DataFrame) -> S3Uri | None:
    """Return the folder that holds exactly these objects, unchanged since they were listed; None if there is none."""
    keys = files["key"].to_list()
    first, last = min(keys), max(keys)
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    folder = S3Uri(files["bucket"][0], first[: first[:shared].rfind("/") + 1])
    if not folder.key:
        return None
    there = {(item.key, item.etag) for item in run.s3.list_objects(folder, placeholders=True)}
    return folder if there == set(files.select("key", "etag").iter_rows()) else None


def _copy_all(run: Run, prefix: S3Uri, files: pl.DataFrame) -> pl.DataFrame:
    """Copy a batch's files below its prefix under numbered names, and delete everything else there."""
    names = [S3Uri(prefix.bucket, f"{prefix.key}{number:06}.dcm") for number in range(files.height)]
    there = {item.key: item for item in run.s3.list_objects(prefix)}
    rows = files.select("bucket", "key", "version_id", "etag", "size").iter_rows(named=True)
    pairs = list(zip(rows, names, strict=True))
    turns = [pairs[first : first + COPIES_PER_TURN] for first in range(0, len(pairs), COPIES_PER_TURN)]
    with ThreadPoolExecutor(run.pipeline.staging.copies_in_flight) as pool:
        found = pool.map(lambda turn: [_copy(run, row, name, there.get(name.key)) for row, name in turn], turns)
        reasons = [reason for turn in found for reason in turn]
    staged = {name.key for name, reason in zip(names, reasons, strict=True) if reason is None}
    run.s3.delete(prefix.bucket, sorted((there.keys() | {name.key for name in names}) - staged))
    return files.with_columns(
        staged_bucket=pl.lit(prefix.bucket),
        staged_key=pl.Series([name.key for name in names], dtype=pl.String),
        reason=pl.Series([None if reason is None else str(reason) for reason in reasons], dtype=pl.String),
    )


def _copy(run: Run, row: dict[str, Any], target: S3Uri, there: ListedObject | None) -> Reason | None:
    """Copy one file; return the reason if it cannot be sent any more."""
    if there is not None and (there.etag, there.size) == (row["etag"], row["size"]):
        return None
    source = {"Bucket": row["bucket"], "Key": row["key"]}
    if row["version_id"]:
        source["VersionId"] = row["version_id"]
    try:
        run.s3.copy(source, row["etag"], row["size"], target)
    except S3Error as error:
        if error.code not in _GONE:
            raise
        return _GONE[error.code]
    return None
