"""A multipart body of instances (PS3.18 section 8.6.1.2, RFC 2387), generated while it is sent."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class Part:
    """One Part 10 file of a body.

    Parameters
    ----------
    size
        Bytes in the file.
    pieces
        The file's bytes; iterated once, when the parts before it are sent.
    """

    size: int
    pieces: Iterable[bytes]


class Multipart:
    """The body of a Store Transaction; its iteration reads the parts piece by piece, as fast as they are sent.

    Its length is known in advance: servers and proxies without chunked transfer accept it, and an interrupted body
    cannot pass for a whole one.

    Parameters
    ----------
    parts
        The files.
    boundary
        The text between them; by default a random one of 128 bits, which no file holds.
    """

    def __init__(self, parts: list[Part], boundary: str = "") -> None:
        self._parts = parts
        self._boundary = boundary or f"airlock-{uuid.uuid4().hex}"
        self._head = f"--{self._boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._end = f"--{self._boundary}--\r\n".encode()

    @property
    def content_type(self) -> str:
        """The request's Content-Type."""
        return f'multipart/related; type="application/dicom"; boundary={self._boundary}'

    @property
    def length(self) -> int:
        """Bytes in the body."""
        around = len(self._head) + len(b"\r\n")
        return sum(part.size + around for part in self._parts) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            yield self._head
            yield from part.pieces
            yield b"\r\n"
        yield self._end
