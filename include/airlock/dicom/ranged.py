"""File-like objects over an S3 object of which only some byte ranges are fetched.

pydicom reads files, not ranges. These files keep the fetched bytes. A read beyond them raises ``NeedBytes``; the caller
fetches that range, and the scanner goes on where it was, while pydicom starts again. The files also know where the
object ends, so that a cut header is recognized.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from typing import NamedTuple

from airlock.dicom.errors import HeaderError
from airlock.reasons import Reason

_ENDLESS = 1 << 62  # the size of what is still being inflated
_INFLATE_STEP = 1 << 13
INFLATE_LIMIT = 1 << 24  # bytes of a deflated data set that are inflated at most


class Range(NamedTuple):
    """A half-open range of an object's bytes."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Bytes in the range."""
        return self.end - self.start


class NeedBytes(Exception):  # noqa: N818  (a request, not an error)
    """The reader needs these bytes of the object to continue."""

    def __init__(self, span: Range) -> None:
        super().__init__(span)
        self.span = span


class WholeRestWanted(Exception):  # noqa: N818  (a request, not an error)
    """pydicom wants to read everything from this offset on, which it does only for a deflated data set."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class EndOfObject(Exception):  # noqa: N818  (often caught as an answer, not as an error)
    """The object ends before the bytes to read."""


class HeaderFile(ABC):
    """The methods of a binary file that pydicom's readers use, and those of the scanner.

    Attributes
    ----------
    short
        Whether a read got fewer bytes than it asked for.
    """

    def __init__(self) -> None:
        self.short = False
        self._position = 0

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes in the whole file; a number larger than any file while that is unknown."""

    @abstractmethod
    def reach(self, end: int) -> int:
        """Return the offset nearest to ``end`` that lies in the object."""

    @abstractmethod
    def take(self, start: int, end: int) -> bytes:
        """Return exactly these bytes.

        Raises
        ------
        NeedBytes
            If they are not fetched yet.
        EndOfObject
            If the object ends before them.
        """

    @abstractmethod
    def stretch(self, start: int, end: int) -> tuple[bytes, int]:
        """Return the whole fetched block with these bytes, and its offset.

        Raises
        ------
        NeedBytes, EndOfObject
            As ``take``.
        """

    @abstractmethod
    def holds(self, start: int, end: int) -> bool:
        """Return whether these bytes are fetched."""

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes; fewer, or none, at the end of the object."""
        start = self._position
        if count < 0:
            raise WholeRestWanted(start)
        end = max(start, self.reach(start + count))
        self.short |= end < start + count
        self._position = end
        return self.take(start, end) if end > start else b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start or, with ``SEEK_CUR``, from the position; fetches nothing."""
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def tell(self) -> int:
        """Return the offset of the next read."""
        return self._position


class BlockFile(HeaderFile):
    """An object and its fetched blocks.

    Parameters
    ----------
    size
        Bytes in the whole object.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._blocks: dict[int, bytes] = {}  # by offset

    @property
    def size(self) -> int:
        """Bytes in the object."""
        return self._size

    def rewind(self) -> None:
        """Move to the first byte; the fetched blocks stay."""
        self.short, self._position = False, 0

    def add(self, start: int, block: bytes) -> None:
        """Keep a fetched block, joined to the one that it continues."""
        for offset, earlier in self._blocks.items():
            if offset + len(earlier) == start:
                self._blocks[offset] = earlier + block
                return
        self._blocks[start] = block

    def here_from(self, start: int) -> int:
        """Return the offset up to which the bytes from ``start`` on are fetched; ``start`` if none are."""
        return max([start, *(at + len(block) for at, block in self._blocks.items() if at <= start)])

    def reach(self, end: int) -> int:
        """Return ``end``, or the object's end before it."""
        return min(end, self._size)

    def holds(self, start: int, end: int) -> bool:
        """Say whether one fetched block has all of these bytes."""
        for offset, block in self._blocks.items():  # noqa: SIM110  (``any`` costs twice as much, for every object)
            if offset <= start and end <= offset + len(block):
                return True
        return False

    def take(self, start: int, end: int) -> bytes:
        """Return exactly these bytes; see `HeaderFile.take`."""
        block, offset = self.stretch(start, end)
        return block[start - offset : end - offset]

    def stretch(self, start: int, end: int) -> tuple[bytes, int]:
        """Return the block with these bytes, and its offset; see `HeaderFile.stretch`."""
        if end > self._size:
            raise EndOfObject
        for offset, block in self._blocks.items():
            if offset <= start and end <= offset + len(block):
                return block, offset
        raise NeedBytes(Range(start, end))


class InflatedFile(HeaderFile):
    """The data set of a Deflated Explicit VR Little Endian object, inflated as far as it is read (PS3.5 annex A.5).

    Parameters
    ----------
    source
        The object.
    start
        Offset of the deflated stream.
    limit
        The largest number of inflated bytes: a stream whose header needs more is refused, to bound the memory.
    """

    def __init__(self, source: BlockFile, start: int, limit: int) -> None:
        super().__init__()
        self._source = source
        self._fed = start
        self._limit = limit
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._out = bytearray()
        self._whole = b""  # a copy of it, as of the last `stretch`

    @property
    def size(self) -> int:
        """Bytes in the inflated data set, once its end is inflated."""
        return len(self._out) if self._inflater.eof else _ENDLESS

    def reach(self, end: int) -> int:
        """Inflate up to ``end``, and return it or the data set's end before it."""
        while len(self._out) < end and not self._inflater.eof:
            if len(self._out) >= self._limit:
                raise HeaderError(Reason.HEADER_TOO_LONG, f"deflated data set, more than {self._limit} bytes inflated")
            step = min(max(end - len(self._out), len(self._out), _INFLATE_STEP), self._limit - len(self._out))
            self._out += self._inflater.decompress(self._deflated(), step)
        return min(end, len(self._out))

    def holds(self, start: int, end: int) -> bool:
        """Return whether these bytes are inflated."""
        return start >= 0 and end <= len(self._out)

    def take(self, start: int, end: int) -> bytes:
        """Return exactly these bytes, after inflating them if necessary."""
        if self.reach(end) < end:
            raise EndOfObject
        return bytes(self._out[start:end])

    def stretch(self, start: int, end: int) -> tuple[bytes, int]:  # noqa: ARG002  (it begins at the beginning)
        """Return everything inflated so far, these bytes at least."""
        if self.reach(end) < end:
            raise EndOfObject
        if len(self._whole) < len(self._out):
            self._whole = bytes(self._out)
        return self._whole, 0

    def _deflated(self) -> bytes:
        if self._inflater.unconsumed_tail:
            return self._inflater.unconsumed_tail
        start, end = self._fed, self._source.here_from(self._fed)
        if start >= self._source.size:
            raise EndOfObject
        if start == end:
            raise NeedBytes(Range(start, start + 1))
        self._fed = end
        return self._source.take(start, end)
