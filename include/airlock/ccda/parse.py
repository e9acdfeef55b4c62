"""Parse: read the header of every document of a shard, and check that the rest is XML; no entity is expanded."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ccda.documents import DocumentError, read_document
from airlock.ccda.records import DOCUMENTS
from airlock.reasons import Reason
from airlock.records import ARRIVALS
from airlock.stages.sidecars import sidecar_pattern
from airlock.storage.lines import unpack
from airlock.storage.refusals import refusal_of
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run

_NOT_A_DOCUMENT = (Reason.NOT_XML, Reason.NOT_CCDA, Reason.EMPTY_OBJECT)


def parse(run: Run[CcdaPipeline], shard: str, progress: Callable[[int, int], None] | None = None) -> dict[str, int]:
    """Read the documents of one shard and write ``documents/<shard>``.

    Parameters
    ----------
    run
        The run; its dataset ``arrivals/<shard>`` lists the objects.
    shard
        The shard's name, from buffer.
    progress
        Called after each document with the number of documents done and of all documents.

    Raises
    ------
    S3Error
        If S3 cannot be read at all.
    """
    arrivals = run.workspace.read(f"arrivals/{shard}", ARRIVALS)
    rows: list[dict[str, Any]] = []
    for arrival in arrivals.iter_rows(named=True):
        rows.append(_read_row(run, arrival) | {"arrival_id": arrival["arrival_id"]})
        if progress:
            progress(len(rows), arrivals.height)
    documents = pl.DataFrame(rows, schema=DOCUMENTS)
    run.workspace.write(f"documents/{shard}", DOCUMENTS, documents)
    return {"arrivals": documents.height, "unread": int(documents["reason"].is_not_null().sum())}


def _read_row(run: Run[CcdaPipeline], arrival: dict[str, Any]) -> dict[str, Any]:
    settings = run.pipeline
    name = arrival["key"].rpartition("/")[2].lower()
    try:
        body = read_object(run, arrival)
        document = read_document(body, compute_limit(settings))
    except DocumentError as error:
        sidecar = error.reason in _NOT_A_DOCUMENT and sidecar_pattern(settings.parse.sidecars).fullmatch(name)
        return {"reason": str(Reason.SIDECAR if sidecar else error.reason), "detail": error.detail or None}
    except S3Error as error:
        reason, detail = refusal_of(error)
        return {"reason": str(reason), "detail": detail}
    except Exception as error:  # noqa: BLE001  (nothing about one document ends the task)
        return {"reason": str(Reason.UNREADABLE), "detail": type(error).__name__}
    digest = hashlib.sha256()
    for piece in unpack([body]):
        digest.update(piece)
    return {
        "document_id": document.document_id,
        "code": document.code,
        "content_digest": digest.hexdigest(),
        "is_gzip": document.is_gzip,
        "unpacked": document.size,
        "detail": "; ".join(document.problems) or None,
    }


def compute_limit(pipeline: CcdaPipeline) -> int:
    """Return the most bytes that a document may have."""
    return round(pipeline.transformation.document_mib * 1024**2)


def read_object(run: Run[CcdaPipeline], arrival: dict[str, Any]) -> bytes:
    """Return an object's bytes, if the object is the one that was listed.

    Raises
    ------
    DocumentError
        If the object is larger than the limit.
    """
    body, limit = bytearray(), compute_limit(run.pipeline)
    for piece in run.s3.stream(S3Uri(arrival["bucket"], arrival["key"]), arrival["etag"]):
        body += piece
        if len(body) > limit:
            raise DocumentError(Reason.FILE_TOO_LARGE, f"more than {limit} bytes")
    return bytes(body)
