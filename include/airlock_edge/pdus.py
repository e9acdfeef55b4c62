"""PDUs of an association as they come from the socket (PS3.8 section 9.3), read without copies and without polling.

pynetdicom encodes and decodes the PDUs of negotiation. Those of data are read here: pynetdicom makes several objects of
each and passes them through two threads, which costs more than all the rest of a reception.
"""

from __future__ import annotations

import math
import struct
from enum import IntEnum
from functools import partial
from socket import AF_INET, AF_INET6, IPPROTO_TCP, TCP_QUICKACK
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

_HEAD = struct.Struct(">BxI")  # type and length of a PDU
_ITEM = struct.Struct(">IBB")  # of a PDV: its length from behind this field, the context, the control header
_COMMAND, _LAST = 0x01, 0x02  # bits of a PDV's control header (PS3.8 annex E.2)
BUFFER = 128 * 1024
SMALL_PDU = 1024 * 1024  # the largest PDU without data; a request has at most 128 presentation contexts
_SLOWEST = 1024  # bytes that a peer must send in each period in the middle of a message
_LARGEST_PDU = 64 * 1024 * 1024  # of data; peers may not exceed what was negotiated, and this is for those that do


class PduType(IntEnum):
    """Types of PDUs."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    DATA = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


class AbortReason(IntEnum):
    """Reasons of the provider's A-ABORT (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PARAMETER = 6


def judge_kind(kind: int, reason: AbortReason) -> AbortReason:
    """Return the reason for which a PDU is not taken: the given one if its type is known."""
    return reason if kind in set(PduType) else AbortReason.UNRECOGNIZED_PDU


class PeerLeftError(Exception):
    """The connection ended without a release."""


class ProtocolError(Exception):
    """The peer sent bytes that are not the upper layer protocol, or not now; the association is to be aborted.

    Parameters
    ----------
    text
        A clause for the log.
    reason
        For the peer.
    """

    def __init__(self, text: str, reason: AbortReason = AbortReason.INVALID_PARAMETER) -> None:
        super().__init__(text)
        self.reason = reason


class PduReader:
    """Reads the bytes of one connection in large pieces.

    Parameters
    ----------
    connection
        The socket; its timeout counts for each piece, and `limit_time` or `expect_pace` for all.
    note_bytes
        Is called with the number of bytes of each piece, and may wait to keep a rate.
    """

    def __init__(self, connection: socket.socket, note_bytes: Callable[[int], None]) -> None:
        self._connection = connection
        self._note_bytes = note_bytes
        self._buffer = memoryview(bytearray(BUFFER))
        self._start = self._end = 0
        self._period = self._least = self._ends = math.inf
        self._came = 0
        self._acknowledge = _acknowledge_at_once(connection)

    def limit_time(self, seconds: float) -> None:
        """Let all that is read from now on come within so many seconds, however it is cut; else TimeoutError."""
        self._period, self._least, self._ends = seconds, math.inf, monotonic() + seconds

    def expect_pace(self, seconds: float) -> None:
        """Let a kilobyte come in each period of so many seconds from now on; else TimeoutError."""
        self._period, self._least, self._ends = seconds, _SLOWEST, monotonic() + seconds
        self._came = 0
        self._connection.settimeout(seconds)

    @property
    def has_bytes(self) -> bool:
        """Whether bytes were received that are not read yet."""
        return self._start < self._end

    def read_head(self) -> tuple[int, int]:
        """Return type and length of the next PDU.

        Raises
        ------
        PeerLeftError, ProtocolError, TimeoutError, OSError
            If the connection ends, the PDU is too long, nothing comes, or the connection breaks.
        """
        kind, length = _HEAD.unpack(self.take(_HEAD.size))
        if length > (_LARGEST_PDU if kind == PduType.DATA else SMALL_PDU):
            reason = judge_kind(kind, AbortReason.INVALID_PARAMETER)
            raise ProtocolError(f"a PDU of type {kind} has {length} bytes", reason)
        return kind, length

    def take(self, size: int) -> bytes:
        """Return the next bytes as one text; of at most `SMALL_PDU`."""
        if size <= self._end - self._start:
            self._start += size
            return bytes(self._buffer[self._start - size : self._start])
        return b"".join(bytes(piece) for piece in self.pieces(size))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Yield the next bytes as they come; a piece is valid until the next one is asked for."""
        while size:
            if self._start == self._end:
                self._fill()
            piece = self._buffer[self._start : min(self._end, self._start + size)]
            self._start += len(piece)
            size -= len(piece)
            yield piece

    def _fill(self) -> None:
        self._check_time()
        received = self._connection.recv_into(self._buffer)
        if not received:
            raise PeerLeftError
        self._acknowledge()
        self._came += received
        self._start, self._end = 0, received
        begun = monotonic()
        self._note_bytes(received)
        self._ends += monotonic() - begun  # a wait that keeps the rate is not the peer's

    def _check_time(self) -> None:
        """Raise TimeoutError for a peer that sends too slowly: each byte alone comes within the socket's timeout."""
        left = self._ends - monotonic()
        if left <= 0:
            if self._came < self._least:
                raise TimeoutError
            self._ends, self._came = monotonic() + self._period, 0
        elif self._least == math.inf and left < math.inf:
            self._connection.settimeout(left)


def _acknowledge_at_once(connection: socket.socket) -> Callable[[], None]:
    """Return a function that has the kernel acknowledge what came.

    A peer that gathers small segments (Nagle's algorithm, on by default) sends the end of an object only then, and the
    kernel waits up to 40 ms. The option holds for a while only, so it is set again with each piece.
    """
    if connection.family not in {AF_INET, AF_INET6}:
        return lambda: None
    return partial(connection.setsockopt, IPPROTO_TCP, TCP_QUICKACK, 1)


class Fragment:
    """One PDV: a fragment of a command set or a data set.

    Attributes
    ----------
    context
        The presentation context's id.
    is_command, is_last
        What it is a fragment of, and whether it is the last one.
    size
        Bytes of the fragment, which are to be read next.
    """

    __slots__ = ("context", "is_command", "is_last", "size")

    def __init__(self, context: int, control: int, size: int) -> None:
        self.context = context
        self.is_command = bool(control & _COMMAND)
        self.is_last = bool(control & _LAST)
        self.size = size


def read_fragments(reader: PduReader, length: int) -> Iterator[Fragment]:
    """Yield the PDVs of a P-DATA-TF PDU of this length; the caller reads each one's bytes before the next.

    Raises
    ------
    ProtocolError
        If the lengths contradict each other.
    """
    while length:
        if length < _ITEM.size:
            raise ProtocolError("a PDU of data ends within a PDV")
        size, context, control = _ITEM.unpack(reader.take(_ITEM.size))
        length -= 4 + size
        if size < 2 or length < 0:
            raise ProtocolError("a PDV is longer than its PDU, or shorter than its own header")
        yield Fragment(context, control, size - 2)


def encode_message(context: int, command: bytes, data_set: bytes | None, most: int) -> bytes:
    """Return the PDUs of a message.

    Parameters
    ----------
    context
        The presentation context's id.
    command, data_set
        The encoded command set, and the data set if it has one.
    most
        Bytes of the largest PDU that the peer takes, at least 7; 0 for any.
    """
    room = (most or BUFFER) - _ITEM.size
    room -= room % 2 if room > 1 else 0  # some peers want fragments of an even length
    parts = [(command, _COMMAND)] + ([] if data_set is None else [(data_set, 0)])
    return b"".join(_encode_fragments(context, control, content, room) for content, control in parts)


def _encode_fragments(context: int, control: int, content: bytes, room: int) -> bytes:
    pdus = []
    for first in range(0, max(len(content), 1), room):
        piece = content[first : first + room]
        last = _LAST if first + room >= len(content) else 0
        pdus += [_HEAD.pack(PduType.DATA, len(piece) + _ITEM.size), _ITEM.pack(len(piece) + 2, context, control | last)]
        pdus.append(piece)
    return b"".join(pdus)


RELEASE_RESPONSE = _HEAD.pack(PduType.RELEASE_RP, 4) + bytes(4)


def encode_abort(reason: AbortReason | None) -> bytes:
    """Return the A-ABORT of the provider with a reason, or with None that of the user (PS3.8 section 9.3.8)."""
    source, why = (0, 0) if reason is None else (2, reason)
    return _HEAD.pack(PduType.ABORT, 4) + bytes((0, 0, source, why))
