"""The output of an import job, as every kind reads it: until it is whole, field by field, and kept for later audits.

Nothing in it is trusted beyond its declared fields: a field of another type counts as absent.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.stages.jobs import EndedJob
    from airlock.storage.s3 import S3
    from airlock.storage.workspace import Workspace

DETAIL_LENGTH = 500  # characters of the service's free text that are kept; the whole of it stays in the job's folder
POLL_SECONDS = 2.0
SHAPES, SHAPE_FIELDS = 20, 12  # of lines that cannot be read: so many are told apart, so many fields of each are named
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")

OutputT = TypeVar("OutputT")
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
