"""An object's bytes as lines, gzip or not, without ever holding more than one line of the size allowed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GZIP = b"\x1f\x8b"
UTF8_BOM = b"\xef\xbb\xbf"
_UNPACKED_AT_ONCE = 1024**2  # bytes


class BrokenGzipError(ValueError):
    """A gzip stream that is damaged, or ends before its end."""


@dataclass(frozen=True)
class Line:
    """One line that is not blank."""

    number: int  # from 1, blank ones counted
    text: bytes | None  # None where it was longer than allowed and was not kept
    size: int  # bytes


def unpack(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content of a stream: of gzip (RFC 1952, several members too) what is in it, else the bytes themselves.

    Raises
    ------
    BrokenGzipError
        If a gzip stream is damaged or cut short; what came before was yielded.
    """
    stream = iter(pieces)
    head = b""
    for piece in stream:
        head += piece
        if len(head) >= len(_GZIP):
            break
    whole = chain([head], stream) if head else stream
    yield from _gunzipped(whole) if head.startswith(_GZIP) else whole


def _gunzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    for piece in pieces:
        left = piece
        while left:
            if member.eof:
                left = left.lstrip(b"\0")  # padding after a member, as tape and block stores leave it
                if not left:
                    break
                member = zlib.decompressobj(wbits=31)
            try:
                yield member.decompress(left, _UNPACKED_AT_ONCE)
            except zlib.error as error:
                raise BrokenGzipError("the gzip stream is damaged") from error
            left = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        raise BrokenGzipError("the gzip stream ends before its end")


def split(pieces: Iterable[bytes], limit: int) -> Iterator[Line]:
    """Yield the lines that are not blank; of one longer than the limit only its number and size.

    Parameters
    ----------
    pieces
        The stream, cut anywhere.
    limit
        Bytes of the longest line that is kept.
    """
    number, rest, dropped = 0, b"", 0
    for piece in _without_mark(pieces):
        first, *others = piece.split(b"\n")
        for part in [first, *others[:-1]] if others else []:
            number += 1
            yield from _line(number, rest + part, dropped, limit)
            rest, dropped = b"", 0
        rest += others[-1] if others else first
        if dropped or len(rest) > limit:
            rest, dropped = b"", dropped + len(rest)
    yield from _line(number + 1, rest, dropped, limit)


def _line(number: int, text: bytes, dropped: int, limit: int) -> Iterator[Line]:
    size = dropped + len(text)
    if size > limit:
        yield Line(number, None, size)
    elif text.strip():
        yield Line(number, text.strip(), size)


def _without_mark(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Leave out a byte order mark, which JSON texts must not begin with and exporters write all the same."""
    stream = iter(pieces)
    head = b""
    for piece in stream:
        head += piece
        if len(head) >= len(UTF8_BOM):
            break
    yield head.removeprefix(UTF8_BOM)
    yield from stream
