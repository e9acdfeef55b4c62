"""A proxy between a DICOM peer and an acceptor that keeps the data sets as they went over the wire."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

from pynetdicom.pdu import A_ASSOCIATE_AC

from airlock_edge.dimse import Command, CommandSet, Field

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Sent:
    """An object as a peer sent it."""

    sop_instance_uid: str
    transfer_syntax: str
    data_set: bytes


class Tap:
    """Passes connections on to a port, and keeps the bytes of both directions."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._kept: list[tuple[bytearray, bytearray]] = []
        self._threads: list[Thread] = []
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                peer, _ = self._listener.accept()
                acceptor = socket.create_connection(("127.0.0.1", self._target))
                kept = bytearray(), bytearray()
                self._kept.append(kept)
                for source, sink, copy in ((peer, acceptor, kept[0]), (acceptor, peer, kept[1])):
                    thread = Thread(target=_pass_on, args=(source, sink, copy), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def close(self) -> None:
        """Accept nobody any more, and wait for the connections to end."""
        self._listener.close()
        for thread in self._threads:
            thread.join(30)

    def sent(self) -> list[Sent]:
        """Return the objects that peers sent, in order; call it when the connections have ended."""
        return [one for requests, answers in self._kept for one in _read_objects(bytes(requests), bytes(answers))]


def _pass_on(source: socket.socket, sink: socket.socket, copy: bytearray) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            copy += piece
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _pdus(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 6 <= len(content):
        kind, length = struct.unpack_from(">BxI", content, at)
        yield kind, content[at : at + 6 + length]
        at += 6 + length


def _read_objects(requests: bytes, answers: bytes) -> Iterator[Sent]:
    """Yield the objects of one association."""
    accept = A_ASSOCIATE_AC()
    accept.decode(next(pdu for kind, pdu in _pdus(answers) if kind == 2))
    syntaxes = {item.context_id: item.transfer_syntax for item in accept.presentation_context if item.result == 0}
    command, content = b"", b""
    for kind, pdu in _pdus(requests):
        at = 6
        while kind == 4 and at < len(pdu):
            size, context, control = struct.unpack_from(">IBB", pdu, at)
            piece = pdu[at + 6 : at + 4 + size]
            at += 4 + size
            if control & 1:
                command += piece
            else:
                content += piece
            if control == 2:
                read = CommandSet(command)
                if read.command == Command.C_STORE:
                    yield Sent(read.uid(Field.AFFECTED_INSTANCE), str(syntaxes[context]), content)
            if control & 2 and (control == 2 or not CommandSet(command).has_data_set):
                command, content = b"", b""


@contextmanager
def dicom_tap(target: int) -> Iterator[Tap]:
    """Yield a tap in front of a port."""
    tap = Tap(target)
    try:
        yield tap
    finally:
        tap.close()
