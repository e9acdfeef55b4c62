"""PDUs of data: what is written is read again, whatever the pieces in which the network brings it."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import P_DATA_TF

from airlock_edge import pdus
from airlock_edge.pdus import (
    AbortReason,
    PduReader,
    PduType,
    PeerLeftError,
    ProtocolError,
    encode_abort,
    encode_message,
    read_fragments,
)


class Pieces:
    """A socket that brings bytes in pieces of these sizes, again and again."""

    family = None

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content = content
        self._sizes = sizes
        self._number = 0

    def recv_into(self, buffer: memoryview) -> int:
        size = self._sizes[self._number % len(self._sizes)]
        self._number += 1
        piece, self._content = self._content[:size], self._content[size:]
        buffer[: len(piece)] = piece
        return len(piece)


def reader_of(content: bytes, *sizes: int) -> PduReader:
    return PduReader(Pieces(content, list(sizes) or [len(content) or 1]), lambda _: None)  # type: ignore[arg-type]


def read_message(reader: PduReader) -> tuple[bytes, bytes]:
    """Return the command and the data set of one message."""
    parts = {True: b"", False: b""}
    ends: set[bool] = set()
    while ends != {True, False}:
        kind, length = reader.read_head()
        assert kind == PduType.DATA
        for fragment in read_fragments(reader, length):
            parts[fragment.is_command] += b"".join(bytes(piece) for piece in reader.pieces(fragment.size))
            ends |= {fragment.is_command} if fragment.is_last else set()
    return parts[True], parts[False]


@given(
    st.binary(min_size=1, max_size=300),
    st.binary(max_size=5000),
    st.integers(7, 4000),
    st.lists(st.integers(1, 900), min_size=1, max_size=5),
)
def test_a_message_is_read_as_it_was_written(command: bytes, content: bytes, most: int, sizes: list[int]) -> None:
    reader = reader_of(encode_message(1, command, content, most), *sizes)
    assert read_message(reader) == (command, content)


@given(st.binary(min_size=1, max_size=300), st.integers(7, 200))
def test_pynetdicom_reads_what_is_written_and_no_pdu_is_too_long(command: bytes, most: int) -> None:
    rest, found = encode_message(3, command, None, most), b""
    while rest:
        length = struct.unpack(">I", rest[2:6])[0]
        assert length <= most
        pdu = P_DATA_TF()
        pdu.decode(rest[: 6 + length])
        [item] = pdu.presentation_data_value_items
        found += item.presentation_data_value[1:]
        rest = rest[6 + length :]
    assert found == command


@pytest.mark.parametrize("content", [b"\4\0\0\0\0", struct.pack(">BxIIBB", 4, 12, 8, 1, 3)])
def test_a_connection_that_ends_is_noticed(content: bytes) -> None:
    reader = reader_of(content)
    with pytest.raises(PeerLeftError):
        read_message(reader)


@pytest.mark.parametrize("length", [2**32 - 1, 64 * 1024 * 1024 + 1])
def test_a_pdu_that_no_peer_may_send_is_refused_before_it_is_read(length: int) -> None:
    with pytest.raises(ProtocolError):
        reader_of(struct.pack(">BxI", 4, length)).read_head()


def test_an_abort_has_its_source_and_reason() -> None:
    assert encode_abort(AbortReason.UNEXPECTED_PDU) == b"\7\0\0\0\0\4\0\0\2\2"
    assert encode_abort(None) == b"\7\0\0\0\0\4\0\0\0\0"


def test_bytes_are_counted_as_they_come() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\5\0\0\0\0\4none")
        counted: list[int] = []
        reader = PduReader(ours, counted.append)
        assert reader.read_head() == (5, 4)
        assert reader.take(4) == b"none"
        assert sum(counted) == 10


@pytest.mark.parametrize("limit", [PduReader.limit_time, PduReader.expect_pace])
def test_a_wait_that_keeps_the_rate_is_not_the_peers(monkeypatch, limit) -> None:
    now = [100.0]

    def wait(_: int) -> None:
        now[0] += 50

    monkeypatch.setattr(pdus, "monotonic", lambda: now[0])
    connection = Pieces(b"x" * 20, [10])
    connection.settimeout = lambda _: None  # type: ignore[attr-defined]
    reader = PduReader(connection, wait)  # type: ignore[arg-type]
    limit(reader, 30)
    assert reader.take(20) == b"x" * 20
