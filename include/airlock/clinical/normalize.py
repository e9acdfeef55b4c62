"""Normalize: import files of one resource type each, within the service's limits, every reference as it must be.

Writes the files below a prefix per batch, one ``batches/<batch id>`` dataset per batch, then ``batches/index.json``,
which makes them count.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.bodies import read_bodies
from airlock.clinical.records import BATCHES, REWRITES, VERDICTS
from airlock.records import Verdict, digest
from airlock.stages.batches import Batch, check_batch_count, find_batches, find_begun_batches, write_batches
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airlock.pipelines import HealthLake, Pipeline
    from airlock.run import Run

_FILE = ["resource_type", "file"]
_PLACED = ["arrival_id", "line", "resource_type", "resource_id", "content_digest", "size", "patient"]


def normalize(run: Run[Any], healthlake: HealthLake) -> list[Batch]:
    """Write a run's import files; once a job was begun, the files stand."""
    if find_begun_batches(run):
        return find_batches(run)
    rewrites = run.workspace.read("rewrites", REWRITES)
    return stage(run, healthlake, _accepted(run), lambda placed: read_bodies(run, placed, rewrites))


def foresee(run: Run[Any], healthlake: HealthLake) -> pl.DataFrame:
    """Return each accepted resource with its ``batch_id``, ``file`` and ``size`` there; nothing is written."""
    return _placed(run, healthlake, _accepted(run))


def _accepted(run: Run[Any]) -> pl.DataFrame:
    return run.workspace.read("verdicts", VERDICTS).filter(pl.col("verdict") == Verdict.ACCEPT)


def stage(
    run: Run[Any], healthlake: HealthLake, resources: pl.DataFrame, bodies: Any, standing: Sequence[Batch] = ()
) -> list[Batch]:
    """Write the import files of these resources, and the datasets that say what is where.

    Parameters
    ----------
    run
        The run.
    healthlake
        Its data store and the limits.
    resources
        arrival_id, line, resource_type, resource_id, content_digest, size, patient, and what *bodies* needs.
    bodies
        Gives the placed resources again with their ``body``, piece by piece, in the order of *resources*.
    standing
        Batches that stay as they are, before those of these resources.
    """
    placed = _placed(run, healthlake, resources)
    batches = placed["batch_id"].unique(maintain_order=True).to_list()
    check_batch_count(len(standing) + len(batches))
    for batch_id in batches:
        _empty(run, batch_id)
    written = _write_files(run, placed, bodies(placed))
    rows = placed.drop("size").join(written, on=["batch_id", *_FILE, "staged_line"], how="left", maintain_order="left")
    found = [*standing]
    for batch_id in batches:
        sent = rows.filter(pl.col("batch_id") == batch_id).with_columns(
            staged_bucket=pl.lit(_prefix(run, batch_id).bucket)
        )
        run.workspace.write(f"batches/{batch_id}", BATCHES, sent.select(BATCHES.names()).cast(BATCHES))
        files = sent["staged_key"].n_unique()
        found.append(Batch(batch_id, str(_prefix(run, batch_id)), files, int(sent["size"].sum())))
    write_batches(run, found)
    return found


def _prefix(run: Run[Any], batch_id: str) -> S3Uri:
    pipeline: Pipeline = run.pipeline
    return S3Uri.parse(pipeline.staging.uri).join(pipeline.name, run.key, batch_id, "")


def _empty(run: Run[Any], batch_id: str) -> None:
    """Leave nothing under a batch's prefix: a try that broke off may have cut the files otherwise."""
    there = [item.key for item in run.s3.list_objects(_prefix(run, batch_id), placeholders=True)]
    run.s3.delete(_prefix(run, batch_id).bucket, there)


def _placed(run: Run[Any], healthlake: HealthLake, resources: pl.DataFrame) -> pl.DataFrame:
    """Give each resource its batch, its file and its line there, by sizes alone."""
    # A file takes resources of one type in the order of the delivery, so one pass over the bodies fills all files.
    sizes = pl.col("size") + 1  # with the line's end
    placed = resources.with_columns(
        file=_files(resources.select("resource_type", sizes), healthlake.bytes_per_file), size=sizes
    )
    files = placed.group_by(_FILE, maintain_order=True).agg(bytes=pl.col("size").sum()).sort(_FILE)
    numbers, number, count, size = [], 0, 0, 0
    for more in files["bytes"]:
        if count and (count == healthlake.files_per_job or size + more > healthlake.bytes_per_job):
            number, count, size = number + 1, 0, 0
        numbers.append(number)
        count, size = count + 1, size + more
    files = files.with_columns(batch=pl.Series(numbers, dtype=pl.Int64))
    placed = placed.join(files.select(*_FILE, "batch"), on=_FILE, how="left", maintain_order="left")
    ids = {key: _batch_id(run, healthlake, rows) for (key,), rows in placed.group_by("batch")}
    return placed.with_columns(
        batch_id=pl.col("batch").replace_strict(ids, default=None, return_dtype=pl.String),
        staged_line=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(_FILE),
    ).drop("batch")


def _files(sizes: pl.DataFrame, limit: int) -> pl.Series:
    """Return the number of each resource's file among those of its type; a file is full before it passes the limit."""
    filled: dict[str, tuple[int, int]] = {}  # the file that is open for a type, and its bytes
    numbers = []
    for kind, more in sizes.iter_rows():
        number, size = filled.get(kind, (0, 0))
        filled[kind] = (number, size + more) if not size or size + more <= limit else (number + 1, more)
        numbers.append(filled[kind][0])
    return pl.Series(numbers, dtype=pl.Int64)


def _batch_id(run: Run[Any], healthlake: HealthLake, rows: pl.DataFrame) -> str:
    """Return a name that the same resources get again in the same run."""
    content = hashlib.sha256()
    for line in rows.select(pl.format("{}/{}={}", "resource_type", "resource_id", "content_digest")).to_series().sort():
        content.update(f"{line}\n".encode())
    return digest(healthlake.datastore_id, run.key, run.folder, content.hexdigest())


@dataclass
class _Open:
    """An import file as it fills."""

    key: str
    todo: int  # resources still to come
    content: io.BytesIO = field(default_factory=io.BytesIO)


def _write_files(run: Run[Any], placed: pl.DataFrame, pieces: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Write every import file as soon as its last resource has come; return the key and size of each resource."""
    counts = placed.group_by("batch_id", *_FILE).len()
    files = {
        (batch, kind, number): _Open(_prefix(run, batch).join(f"{kind}.{number:05}.ndjson").key, todo)
        for batch, kind, number, todo in counts.iter_rows()
    }
    bucket = S3Uri.parse(run.pipeline.staging.uri).bucket
    frames = [_sent(piece, files, run, bucket) for piece in pieces]
    kinds = {"batch_id": pl.String, "resource_type": pl.String, "file": pl.Int64, "staged_line": pl.Int64}
    empty = pl.DataFrame(schema={**kinds, "staged_key": pl.String, "size": pl.Int64})
    return pl.concat([empty, *frames])


def _sent(piece: pl.DataFrame, files: dict[tuple[str, str, int], _Open], run: Run[Any], bucket: str) -> pl.DataFrame:
    sizes, keys = [], []
    for batch, kind, number, body in piece.select("batch_id", *_FILE, "body").iter_rows():
        target = files[batch, kind, number]
        sizes.append(target.content.write(body.encode() + b"\n"))
        keys.append(target.key)
        target.todo -= 1
        if not target.todo:
            run.s3.put(S3Uri(bucket, target.key), target.content.getvalue(), "application/fhir+ndjson")
            target.content.close()
    places = piece.select("batch_id", *_FILE, "staged_line")
    return places.with_columns(staged_key=pl.Series(keys, dtype=pl.String), size=pl.Series(sizes, dtype=pl.Int64))


def pieces_of(resources: pl.DataFrame, size: int = 10_000) -> Iterator[pl.DataFrame]:
    """Yield rows that have their bodies already, some at a time."""
    return resources.iter_slices(size)
