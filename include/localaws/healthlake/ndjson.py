"""Newline-delimited JSON: lines out of a stream, within bounds, and lines into a file."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any

from localaws.healthlake.documents import write_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHUNK_BYTES = 1 << 20
BATCH_LINES = 200
BATCH_BYTES = 8 << 20
SPOOL_BYTES = 8 << 20


@dataclass(frozen=True)
class Line:
    """One line: its number from 1, its bytes without the line end, and its size; too long a line has no bytes."""

    number: int
    body: bytes | None
    size: int


def read_lines(stream: IO[bytes], longest: int, head: bytes = b"") -> Iterator[Line]:
    """Yield every line of `stream` that is not blank; blank ones count.

    Parameters
    ----------
    stream : binary file
    longest : int
        A line of more bytes is yielded without its body; it is never held in memory.
    head : bytes
        The bytes that were read from the stream before.
    """
    number, begun, size = 1, bytearray(), 0
    while chunk := head + stream.read(CHUNK_BYTES):
        head = b""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            yield from _line(number, begun, size, part, longest)
            number, size = number + 1, 0
            begun.clear()
        size += len(rest)
        if size <= longest:
            begun += rest
        else:
            begun.clear()
    yield from _line(number, begun, size, b"", longest)


def _line(number: int, begun: bytearray, size: int, part: bytes, longest: int) -> Iterator[Line]:
    size += len(part)
    if size > longest:
        yield Line(number, None, size)
    elif body := bytes(begun + part).strip():
        yield Line(number, body, size)


def batch_lines(found: Iterable[Line]) -> Iterator[list[Line]]:
    """Put lines together that are few and short enough to be worked on at once."""
    batch: list[Line] = []
    size = 0
    for line in found:
        batch.append(line)
        size += len(line.body or b"")
        if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def open_ndjson(documents: Iterable[Any]) -> Iterator[IO[bytes] | None]:
    """Yield a temporary file with one line per document, at its beginning; None if there is no document."""
    with SpooledTemporaryFile(SPOOL_BYTES) as file:
        for document in documents:
            file.write(write_document(document).encode() + b"\n")
        is_empty = not file.tell()
        file.seek(0)
        yield None if is_empty else file
