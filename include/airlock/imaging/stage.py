"""Stage: give one batch a prefix that holds its files and nothing else.

It writes the ``batches/<batch id>`` dataset of normalize again, with the staged key of each file, and with the reason
of a file that cannot be sent. Until then no file of the dataset has a staged key. Stage is mapped over the batches, and
a batch is imported as soon as it is staged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.records import BATCHES
from airlock.stages.batches import Batch
from airlock.storage.copies import copy_objects
from airlock.storage.copy_requests import Copy
from airlock.storage.refusals import ARCHIVED, find_refusal
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airlock.run import Run
    from airlock.storage.s3 import ListedObject

# What S3 says of the source of one copy. AccessDenied is not among it: it may concern the target, and so all copies.
_OF_SOURCES = frozenset({"PreconditionFailed", "412", "NoSuchKey", "NoSuchVersion", "404", *ARCHIVED})


class BatchNotStagedError(LookupError):
    """A batch is to be imported that stage has not given a prefix."""


def stage(run: Run, batch_id: str, progress: Callable[[int], None] | None = None) -> Batch:
    """Stage a batch, and return it; a second call finds it staged.

    A batch stays as it is once a job was started for it: the job has the files, even if the prefix has changed since.
    It also stays while a start may have been accepted whose answer was lost. After a job that FAILED it is staged anew.

    Parameters
    ----------
    run
        The run.
    batch_id
        The batch, which normalize has planned.
    progress
        Called with the number of copies that have an outcome, after each.
    """
    files = run.workspace.read(f"batches/{batch_id}", BATCHES)
    if _has_job(run, batch_id, files):
        return describe_staged(files)
    if _is_clean(run, files):
        rows, stale = _name_in_place(files), list[str]()
    else:
        rows, stale = _copy_all(run, batch_id, files, progress)
    if _has_job(run, batch_id):  # a later try of this task has staged it, and import has started: this one is lost
        return find_staged(run, batch_id)
    run.s3.delete(rows["staged_bucket"][0], stale)
    run.workspace.write(f"batches/{batch_id}", BATCHES, rows.select(BATCHES.names()).cast(BATCHES))
    return describe_staged(rows)


def find_staged(run: Run, batch_id: str) -> Batch:
    """Return a batch as stage has left it, for import.

    Raises
    ------
    BatchNotStagedError
        If stage has not given it a prefix.
    """
    files = run.workspace.read(f"batches/{batch_id}", BATCHES)
    if not is_staged(files):
        raise BatchNotStagedError(f"Batch {batch_id} is not staged. Clear its task stage and everything after it.")
    return describe_staged(files)


def is_staged(files: pl.DataFrame) -> bool:
    """Return whether the files of a batch, rows of ``batches``, have a prefix."""
    return files["staged_key"].null_count() == 0


def describe_staged(rows: pl.DataFrame) -> Batch:
    """Return the batch of these rows of ``batches``, which stage has written."""
    sent = rows.filter(pl.col("reason").is_null())
    prefix = _shared_folder(rows["staged_bucket"][0], rows["staged_key"])
    return Batch(rows["batch_id"][0], str(prefix), sent.height, int(sent["size"].sum()))


def find_clean_folder(run: Run, files: pl.DataFrame) -> S3Uri | None:
    """Return the folder that holds exactly these objects, unchanged since they were listed; None if there is none."""
    folder = _shared_folder(files["bucket"][0], files["key"])
    if not folder.key:
        return None
    there = {(item.key, item.etag) for item in run.s3.list_objects(folder, placeholders=True)}
    return folder if there == set(files.select("key", "etag").iter_rows()) else None


def _has_job(run: Run, batch_id: str, files: pl.DataFrame | None = None) -> bool:
    """Return whether a job has a batch.

    With the batch's *files*, also whether it may have one: a job was to start on the copies that are all still there,
    and whether it did is not known.
    """
    job = run.ledger.job(batch_id)  # of the last generation
    if job is None or job.status == "FAILED":
        return False
    return job.job_id is not None or (files is not None and _has_all_copies(run, files))


def _shared_folder(bucket: str, keys: pl.Series) -> S3Uri:
    """Return the deepest folder that holds all these keys."""
    first, last = str(keys.min()), str(keys.max())
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return S3Uri(bucket, first[: first[:shared].rfind("/") + 1])


def _has_all_copies(run: Run, files: pl.DataFrame) -> bool:
    """Return whether a batch that stage has copied still has its prefix, with its copies and nothing else."""
    if files["staged_key"].equals(files["key"]) or not is_staged(files):
        return False
    prefix = S3Uri.parse(describe_staged(files).input_uri)
    there = {item.key for item in run.s3.list_objects(prefix, placeholders=True)}
    return there == set(files.filter(pl.col("reason").is_null())["staged_key"])


def _is_clean(run: Run, files: pl.DataFrame) -> bool:
    return run.pipeline.staging.mode == "in_place" and find_clean_folder(run, files) is not None


def _name_in_place(files: pl.DataFrame) -> pl.DataFrame:
    return files.with_columns(staged_bucket="bucket", staged_key="key", reason=pl.lit(None, pl.String))


def _copy_all(
    run: Run, batch_id: str, files: pl.DataFrame, progress: Callable[[int], None] | None
) -> tuple[pl.DataFrame, list[str]]:
    """Copy a batch's files below its prefix under numbered names; return the rows, and the other keys there."""
    # The batch's id comes first: S3 spreads keys by their start, and the batches are copied at the same time.
    prefix = S3Uri.parse(run.pipeline.staging.uri).join(batch_id, run.pipeline.name, run.key, "")
    names = [S3Uri(prefix.bucket, f"{prefix.key}{number:06}.dcm") for number in range(files.height)]
    there = {item.key: item for item in run.s3.list_objects(prefix)}
    sources = files.select("bucket", "key", "version_id", "etag", "size").iter_rows(named=True)
    copies = [Copy(**row, target=name) for row, name in zip(sources, names, strict=True)]
    missing = [copy for copy in copies if not _is_there(copy, there)]
    found = copy_objects(run.s3, missing, run.pipeline.staging, _OF_SOURCES, progress=progress)
    outcomes = dict(zip(missing, found, strict=True))
    codes = [outcomes.get(copy) for copy in copies]
    reasons = [None if code is None else str(find_refusal(code)) for code in codes]
    staged = {name.key for name, reason in zip(names, reasons, strict=True) if reason is None}
    rows = files.with_columns(
        staged_bucket=pl.lit(prefix.bucket),
        staged_key=pl.Series([name.key for name in names], dtype=pl.String),
        reason=pl.Series(reasons, dtype=pl.String),
    )
    return rows, sorted((there.keys() | {name.key for name in names}) - staged)


def _is_there(copy: Copy, there: Mapping[str, ListedObject]) -> bool:
    """Return whether the copy of an earlier try is there."""
    item = there.get(copy.target.key)
    return item is not None and (item.etag, item.size) == (copy.etag, copy.size)
