"""Tell the edge what became of its objects: imported, released or failed, by messages on its queue.

The edge (package airlock_edge) receives DICOM over the network, puts it on S3, and answers storage commitment requests
by what it is told here. A message has keys and codes only; the edge's keys are hashes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from airlock.destinations import DestinationError
from airlock.ledger.untold import UNTOLD, WAITING
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import ImagingPipeline
    from airlock.run import Run

SCHEMA = "airlock.told/1"
# <site>/<date>/<study hash>/<hash>.dcm, as the edge names its objects; a pipeline's source may be one site. Any other
# key below the source may name a patient: none is sent.
_FOLDER = r"(?:[a-z0-9][a-z0-9-]{0,31}/)?\d{4}-\d{2}-\d{2}/(?:[0-9a-f]{16}|no-study)/"
_OBJECT = re.compile(_FOLDER + r"[0-9a-f]{16,64}\.dcm")
_MANIFEST = re.compile(_FOLDER + r"[^/]+\.json")  # of a delivery; the edge need not be told about it
AT_A_TIME = 1_000  # rows of the ledger
MESSAGE_BYTES = 200 * 1024  # SQS takes 256 KiB, of body and attributes (SQS developer guide, "Message quotas")


class Queue(Protocol):
    """A queue; `airlock.destinations.sqs.SqsQueue` is one."""

    def put(self, body: str) -> None:
        """Send a body; return when the queue has it.

        Raises
        ------
        DestinationError
            If the queue does not have it, or may not have it.
        """


@dataclass
class Told:
    """The numbers of objects that an attempt was about."""

    objects: int = 0  # sent
    others: int = 0  # not sent, since their keys are not the edge's
    error: str | None = None  # the code with which the queue refused a message; the rest waits


def keep_edge(run: Run[ImagingPipeline]) -> None:
    """Note in the ledger which queue the pipeline's edge has, if any; call it before the run settles."""
    settings = run.pipeline.edge
    queue_url = None if settings is None else settings.queue_url
    if run.ledger.find_edge(run.pipeline.name) != queue_url:
        run.ledger.note_edge(run.pipeline.name, queue_url)


def tell_edge(run: Run[ImagingPipeline], queue: Queue) -> Told:
    """Send what the edge has not been told yet, of all runs of the pipeline; a repeat sends only what is new."""
    pipeline, told = run.pipeline, Told()
    source = S3Uri.parse(pipeline.source.uri).key
    while not (found := run.ledger.untold(pipeline.name, pipeline.datastore_id, AT_A_TIME)).is_empty():
        latest = found.unique(["bucket", "key", "generation"], keep="last", maintain_order=True)
        decided = latest.filter(pl.col("state") != WAITING)
        rows = [row for row in decided.iter_rows(named=True) if not _is_named(source, row["key"], _MANIFEST)]
        objects = [describe(row) for row in rows if is_of_edge(source, row["key"])]
        try:
            for body in write_messages(pipeline.name, objects):
                queue.put(body)
        except DestinationError as error:
            told.error = error.code
            return told
        run.ledger.mark_told(found["id"])
        told.objects += len(objects)
        told.others += len(rows) - len(objects)
    return told


def is_of_edge(source: str, key: str) -> bool:
    """Return whether an edge has given this key, below the source's prefix."""
    return _is_named(source, key, _OBJECT)


def _is_named(source: str, key: str, form: re.Pattern[str]) -> bool:
    return key.startswith(source) and form.fullmatch(key[len(source) :]) is not None


def describe(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the edge is told about an object, from a row of `UNTOLD`.

    Of two messages about one key the one with the higher ``order`` counts, number by number.
    """
    order = [row[name] for name in UNTOLD if name.endswith(("generation", "number")) and row[name] is not None]
    return {name: row[name] for name in ("bucket", "key", "state", "disposition", "reason")} | {"order": order}


def write_messages(pipeline: str, objects: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the bodies of messages about objects, each of at most `MESSAGE_BYTES`."""
    head = json.dumps({"schema": SCHEMA, "pipeline": pipeline, "objects": []}).removesuffix("]}")
    texts: list[str] = []
    size = len(head) + 2
    for one in objects:
        text = json.dumps(one)  # ASCII: as many bytes as characters
        if texts and size + len(text) + 2 > MESSAGE_BYTES:
            yield f"{head}{', '.join(texts)}]}}"
            texts, size = [], len(head) + 2
        texts.append(text)
        size += len(text) + 2
    if texts:
        yield f"{head}{', '.join(texts)}]}}"
