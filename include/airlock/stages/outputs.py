"""The output of an import job, for every kind of pipeline: read until it is complete, and kept for later audits.

The output is not trusted: a field with another type than documented counts as absent.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import polars as pl
from polars.io.plugins import register_io_source

from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import COMPRESSION_LEVEL

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.jobs import EndedJob
    from airlock.storage.s3 import S3
    from airlock.storage.workspace import Workspace

DETAIL_LENGTH = 500  # characters of the service's free text that are kept; the job's folder has the full text
POLL_SECONDS = 2.0
BATCHES_AT_A_TIME = 8  # outputs read at the same time: each has about ten small objects, with one request each
KEPT_ROWS = 100_000  # lines of a kept output that are written and read at a time
_ABOUT = "airlock.output"  # the key of a kept output's metadata in its Parquet file
SHAPES, SHAPE_FIELDS = 20, 12  # the most shapes of unreadable lines that are counted apart, and fields named of each
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")

OutputT = TypeVar("OutputT")
AccountT = TypeVar("AccountT")
ShapeT = TypeVar("ShapeT")


class Manifests(Protocol[OutputT]):
    """The functions with which a kind reads and keeps the output of its jobs: its module ``manifests``."""

    def read_output(self, s3: S3, folder: S3Uri, wait_seconds: float) -> OutputT:
        """Return the output in a job's folder; wait at most this long until it is complete."""
        ...

    def read_kept(self, workspace: Workspace, batch_id: str, job_id: str) -> OutputT | None:
        """Return the output that `keep_output` wrote for this job; None if there is none."""
        ...

    def keep_output(self, workspace: Workspace, batch_id: str, job_id: str, output: OutputT) -> None:
        """Write a job's output to the workspace."""
        ...

    def is_final(self, output: OutputT) -> bool:
        """Return whether the output is complete, so that a later reading finds no more."""
        ...

    def proves_more(self, one: OutputT, other: OutputT) -> bool:
        """Return whether one reading of a job's output has more proof than another."""
        ...


def read_best_output(run: Run[Pipeline], job: EndedJob, wait_seconds: float, manifests: Manifests[OutputT]) -> OutputT:
    """Return a job's present output, or the one that an earlier audit kept, whichever has more proof.

    So a later audit still has the proof of released resources if the bucket's lifecycle has deleted the output.
    """
    kept = manifests.read_kept(run.workspace, job.batch_id, job.job_id)
    if kept is not None and manifests.is_final(kept):
        return kept
    output = manifests.read_output(run.s3, S3Uri.parse(job.output_uri), wait_seconds)
    if kept is not None and manifests.proves_more(kept, output):
        return kept
    manifests.keep_output(run.workspace, job.batch_id, job.job_id, output)
    return output


def account_for_each(batches: Sequence[Batch], account: Callable[[Batch], AccountT]) -> Iterator[AccountT]:
    """Yield the account of each batch in order; the outputs of several batches are read at the same time."""
    with ThreadPoolExecutor(BATCHES_AT_A_TIME) as pool:
        for first in range(0, len(batches), BATCHES_AT_A_TIME):
            yield from pool.map(account, batches[first : first + BATCHES_AT_A_TIME])


def write_kept(
    workspace: Workspace, batch_id: str, lines: Iterable[pl.DataFrame], schema: pl.Schema, about: dict[str, Any]
) -> None:
    """Write an output to the workspace as one object, so that it is never incomplete.

    The lines are the rows of a Parquet file; the other fields of the output are its metadata. Memory does not grow with
    the lines.

    Parameters
    ----------
    workspace
        The workspace of the run.
    batch_id
        The batch of the job.
    lines, schema
        The lines, frame by frame, and their columns.
    about
        The other fields of the output, which JSON can represent; they name the job.
    """

    def read(*_: object) -> Iterator[pl.DataFrame]:
        yield schema.to_frame()
        yield from lines

    with tempfile.TemporaryFile(prefix="airlock-") as file:  # a file without a name is gone when the task is killed
        rows = register_io_source(read, schema=schema)
        rows.sink_parquet(
            file,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            metadata={_ABOUT: json.dumps(about)},
            row_group_size=KEPT_ROWS,
            engine="streaming",
        )
        workspace.write_file(_kept_name(batch_id), file, "application/vnd.apache.parquet")


@contextmanager
def open_kept(
    workspace: Workspace, batch_id: str, schema: pl.Schema
) -> Iterator[tuple[dict[str, Any], Iterator[pl.DataFrame]] | None]:
    """Open the output that `write_kept` wrote for a batch: its fields, and its lines frame by frame; None if absent."""
    with tempfile.TemporaryFile(prefix="airlock-") as file:
        try:
            workspace.read_file(_kept_name(batch_id), file)
        except FileNotFoundError:
            yield None
            return
        file.seek(0)
        about = json.loads(pl.read_parquet_metadata(file)[_ABOUT])
        file.seek(0)
        yield about, _read_slices(pl.scan_parquet(file, schema=schema))


def _read_slices(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    height = rows.select(pl.len()).collect().item()
    for first in range(0, height, KEPT_ROWS):
        yield rows.slice(first, KEPT_ROWS).collect()


def _kept_name(batch_id: str) -> str:
    return f"outputs/{batch_id}.parquet"


def read_until_whole(
    read: Callable[[], OutputT],
    is_whole: Callable[[OutputT], bool],
    wait_seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> OutputT:
    """Read repeatedly until the reading is complete or the wait is over; return the last reading."""
    deadline = clock() + wait_seconds
    while True:
        output = read()
        if is_whole(output) or clock() >= deadline:
            return output
        pause(min(POLL_SECONDS, max(0.0, deadline - clock())))


def as_number(value: object) -> int | None:
    """Return an integer that a frame can hold; None for any other value."""
    return value if type(value) is int and abs(value) < 2**63 else None


def as_object(value: object) -> dict[str, Any]:
    """Return a JSON object; an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def as_objects(value: object) -> list[dict[str, Any]]:
    """Return the JSON objects of a list; an empty list for any other value."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_text(value: object) -> str | None:
    """Return a text; None for any other value.

    Half a surrogate pair, which JSON can write but a frame cannot hold, becomes a question mark.
    """
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def describe_shape(value: object, depth: int = 3) -> str:
    """Return the names of a JSON object's fields, and of the fields of objects in it; never a value."""
    if not isinstance(value, dict):
        return "no JSON object"
    names = []
    for name in sorted(value)[:SHAPE_FIELDS]:
        inner = value[name] if depth > 1 else None
        shown = name if _FIELD_NAME.fullmatch(name) else "?"
        names.append(f"{shown}({describe_shape(inner, depth - 1)})" if isinstance(inner, dict) else shown)
    return ", ".join(names)


def count_shape(shapes: Counter[ShapeT], shape: ShapeT, other: ShapeT) -> None:
    """Add one line to the count of its shape; once there are `SHAPES` shapes, a new one counts as *other*."""
    many = shape not in shapes and len(shapes) >= SHAPES
    shapes[other if many else shape] += 1
