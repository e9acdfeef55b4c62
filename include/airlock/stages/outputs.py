"""The output of an import job, as every kind reads it: until it is whole, field by field, and kept for later audits.

Nothing in it is trusted beyond its declared fields: a field of another type counts as absent.
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

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.jobs import EndedJob
    from airlock.storage.s3 import S3
    from airlock.storage.workspace import Workspace

DETAIL_LENGTH = 500  # characters of the service's free text that are kept; the whole of it stays in the job's folder
POLL_SECONDS = 2.0
BATCHES_AT_A_TIME = 8  # whose outputs are read: some ten small objects each, which would be waited for one by one
KEPT_ROWS = 100_000  # lines of a kept output that are written and read at a time
_ABOUT = "airlock.output"  # of a kept output's file: its metadata
SHAPES, SHAPE_FIELDS = 20, 12  # of lines that cannot be read: so many are told apart, so many fields of each are named
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")

OutputT = TypeVar("OutputT")
AccountT = TypeVar("AccountT")
ShapeT = TypeVar("ShapeT")


class Manifests(Protocol[OutputT]):
    """How a kind reads and keeps the output of its jobs: its module ``manifests``."""

    def read_output(self, s3: S3, folder: S3Uri, wait_seconds: float) -> OutputT:
        """Read a job's output folder; wait for so long until it is whole."""
        ...

    def read_kept(self, workspace: Workspace, batch_id: str, job_id: str) -> OutputT | None:
        """Return what `keep_output` wrote of this job; None if it never did."""
        ...

    def keep_output(self, workspace: Workspace, batch_id: str, job_id: str, output: OutputT) -> None:
        """Keep a job's output in the workspace."""
        ...

    def is_final(self, output: OutputT) -> bool:
        """Say whether nothing can follow."""
        ...

    def proves_more(self, one: OutputT, other: OutputT) -> bool:
        """Say whether one reading of a job's output holds more than another."""
        ...


def read_best_output(run: Run[Pipeline], job: EndedJob, wait_seconds: float, manifests: Manifests[OutputT]) -> OutputT:
    """Return a job's output as it is now, or as an earlier audit kept it, whichever proves more.

    So a later audit still sees the proof of what was released when the bucket's lifecycle has deleted the output.
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
    """Yield the account of each batch, in their order; the outputs of some batches are read at the same time."""
    with ThreadPoolExecutor(BATCHES_AT_A_TIME) as pool:
        for first in range(0, len(batches), BATCHES_AT_A_TIME):
            yield from pool.map(account, batches[first : first + BATCHES_AT_A_TIME])


def write_kept(
    workspace: Workspace, batch_id: str, lines: Iterable[pl.DataFrame], schema: pl.Schema, about: dict[str, Any]
) -> None:
    """Keep an output in the workspace as one object, so never half of it.

    The lines are the rows of a Parquet file, the rest of the output is its metadata. Memory does not grow with it.

    Parameters
    ----------
    workspace
        The run's.
    batch_id
        Whose output it is.
    lines, schema
        The lines, frame by frame, and their columns.
    about
        The rest of the output, as JSON can hold it; it names the job.
    """

    def read(*_: object) -> Iterator[pl.DataFrame]:
        yield schema.to_frame()
        yield from lines

    with tempfile.TemporaryFile(prefix="airlock-") as file:  # without a name: it is gone with a task that is killed
        rows = register_io_source(read, schema=schema)
        rows.sink_parquet(
            file, compression="zstd", metadata={_ABOUT: json.dumps(about)}, row_group_size=KEPT_ROWS, engine="streaming"
        )
        workspace.write_file(_kept_name(batch_id), file, "application/vnd.apache.parquet")


@contextmanager
def open_kept(
    workspace: Workspace, batch_id: str, schema: pl.Schema
) -> Iterator[tuple[dict[str, Any], Iterator[pl.DataFrame]] | None]:
    """Give what `write_kept` was given of a batch, the lines frame by frame; None if it never was."""
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
    """Read again and again until the reading is whole or the wait is over; return the last reading."""
    deadline = clock() + wait_seconds
    while True:
        output = read()
        if is_whole(output) or clock() >= deadline:
            return output
        pause(min(POLL_SECONDS, max(0.0, deadline - clock())))


def as_number(value: object) -> int | None:
    """Return a whole number that a frame can hold; None for anything else."""
    return value if type(value) is int and abs(value) < 2**63 else None


def as_object(value: object) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_objects(value: object) -> list[dict[str, Any]]:
    """Return the JSON objects of a list; none for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_text(value: object) -> str | None:
    """Return a text; half a surrogate pair, which JSON can write and no frame can hold, becomes a question mark."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def shape_of(value: object, depth: int = 3) -> str:
    """Return the names of a JSON object's fields, and of the fields of objects in it; never a value."""
    if not isinstance(value, dict):
        return "no JSON object"
    names = []
    for name in sorted(value)[:SHAPE_FIELDS]:
        inner = value[name] if depth > 1 else None
        shown = name if _FIELD_NAME.fullmatch(name) else "?"
        names.append(f"{shown}({shape_of(inner, depth - 1)})" if isinstance(inner, dict) else shown)
    return ", ".join(names)


def count_shape(shapes: Counter[ShapeT], shape: ShapeT, other: ShapeT) -> None:
    """Count one more line of a shape; where there are many shapes already, a new one counts as the other."""
    many = shape not in shapes and len(shapes) >= SHAPES
    shapes[other if many else shape] += 1
