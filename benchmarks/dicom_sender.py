"""A lean sender of DICOM objects: data sets that are encoded beforehand go to the socket with hardly any work.

``storescu`` reads and parses each file, so that on few cores it would be the limit of a fast receiver. This sender is
also a peer in the edge's proofs, which want the very bytes of a data set sent, and the status of each response.

    python -m benchmarks.dicom_sender ct 100 7 127.0.0.1 11112 AIRLOCK

It prepares 100 CT images whose UIDs have the number 7 in them, opens an association, prints ``ready``, waits for a line
on standard input, sends the images one after the other, and prints its figures as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import sys
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
EXPLICIT = "1.2.840.10008.1.2.1"
CALLING = "BENCH"
SIDE = 512  # rows and columns
LARGE_FRAMES = 400  # 200 MiB of pixels
SUCCESS = 0
_ROOT = "1.2.826.0.1.3680043.10.1580.9"
_HEAD = struct.Struct(">BxI")  # of a PDU (PS3.8 section 9.3)
_PDV = struct.Struct(">IBB")
_DATA, _ACCEPTED, _RELEASE = 4, 2, 5
_MOST_PDU = 128 * 1024
_BUFFERS = 256  # of one call of the system; it takes 1,024 at most
_STATUS = b"\0\0\0\x09\2\0\0\0"  # tag (0000,0900) and length in implicit VR little endian


class Item(NamedTuple):
    """One object to send: its UIDs and its encoded data set in parts, which are sent one behind the other."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    data_set: tuple[bytes, ...]


@dataclass(frozen=True)
class Certificates:
    """The files in PEM of a client's TLS."""

    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return the context of a client that the authority has certified."""
        context = ssl.create_default_context(cafile=self.authority)
        context.check_hostname = False  # one certificate serves both ends here
        context.load_cert_chain(self.certificate, self.key)
        return context


class RefusedError(Exception):
    """The peer refused the association, aborted it or hung up."""


class Sender:
    """One association as a requestor; a context manager, which releases it.

    Parameters
    ----------
    address
        Of the peer.
    called
        Its AE title.
    contexts
        Pairs of a SOP class and a transfer syntax.
    calling
        The own AE title.
    tls
        To encrypt it.
    patience
        Seconds to wait for the peer's next bytes.

    Raises
    ------
    RefusedError
        If the peer does not accept the association.
    """

    def __init__(
        self,
        address: tuple[str, int],
        called: str,
        contexts: Iterable[tuple[str, str]],
        *,
        calling: str = CALLING,
        tls: ssl.SSLContext | None = None,
        patience: float = 120,
    ) -> None:
        self._socket = socket.create_connection(address, timeout=patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket)
        self._file = self._socket.makefile("rb")
        self._message = 0
        wanted = dict(enumerate(sorted(set(contexts))))
        self._socket.sendall(encode_proposal(called, calling, list(wanted.values())))
        answer = self._read_pdu(_ACCEPTED)
        accepted = A_ASSOCIATE_AC()
        accepted.decode(answer)
        primitive = accepted.to_primitive()
        results = {one.context_id: one.result for one in primitive.presentation_context_definition_results_list}
        self._contexts = {pair: 2 * n + 1 for n, pair in wanted.items() if results.get(2 * n + 1) == 0}
        self._room = min(primitive.maximum_length_received or _MOST_PDU, _MOST_PDU) - _PDV.size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.release()
        self.close()

    def accepts(self, item: Item) -> bool:
        """Return whether the peer accepted the presentation context of an object."""
        return (item.sop_class_uid, item.transfer_syntax) in self._contexts

    def store(self, item: Item, context: tuple[str, str] | None = None) -> int:
        """Send an object, by default in the context of its class and syntax; return the status of its response.

        Raises
        ------
        RefusedError
            If the association ends before the response.
        """
        self.send(item, context)
        response = self._read_pdu(_DATA)
        at = response.index(_STATUS) + len(_STATUS)
        return int.from_bytes(response[at : at + 2], "little")

    def send(self, item: Item, context: tuple[str, str] | None = None, *, cut: bool = False) -> None:
        """Send an object without waiting for the response; *cut* leaves its last fragment out."""
        number = self._contexts[context or (item.sop_class_uid, item.transfer_syntax)]
        self._message = self._message % 0xFFFF + 1
        command = _encode_store(item, self._message)
        buffers: list[bytes | memoryview] = [
            _HEAD.pack(_DATA, len(command) + 6),
            _PDV.pack(len(command) + 2, number, 3),
        ]
        buffers.append(command)
        last = len(item.data_set) - 1
        for position, part in enumerate(item.data_set):
            view = memoryview(part)
            for first in range(0, len(part), self._room):
                piece = view[first : first + self._room]
                control = 2 if position == last and first + self._room >= len(part) else 0
                buffers.append(_HEAD.pack(_DATA, len(piece) + 6) + _PDV.pack(len(piece) + 2, number, control))
                buffers.append(piece)
        self._send_all(buffers[:-2] if cut else buffers)

    def release(self) -> None:
        """Release the association and wait for the answer."""
        self._socket.sendall(_HEAD.pack(_RELEASE, 4) + bytes(4))
        self._read_pdu(_RELEASE + 1)

    def close(self) -> None:
        """Close the connection, without a release if there was none."""
        self._file.close()
        self._socket.close()

    def _send_all(self, buffers: list[bytes | memoryview]) -> None:
        try:
            if isinstance(self._socket, ssl.SSLSocket):  # which has no sendmsg
                for first in range(0, len(buffers), 2):
                    self._socket.sendall(b"".join(buffers[first : first + 2]))
                return
            for first in range(0, len(buffers), _BUFFERS):
                group = buffers[first : first + _BUFFERS]
                sent = self._socket.sendmsg(group)
                if sent < sum(map(len, group)):
                    self._socket.sendall(b"".join(group)[sent:])
        except OSError as error:
            raise RefusedError(type(error).__name__) from None

    def _read_pdu(self, wanted: int) -> bytes:
        try:
            head = self._file.read(_HEAD.size)
            if len(head) == _HEAD.size and head[0] == wanted:
                body = self._file.read(int.from_bytes(head[2:], "big"))
                return head + body
        except OSError as error:
            raise RefusedError(type(error).__name__) from None
        raise RefusedError(f"the peer answered with PDU type {head[0]}" if head else "the peer hung up")


def encode_proposal(called: str, calling: str, contexts: Sequence[tuple[str, str]], *items: Any) -> bytes:
    """Return an A-ASSOCIATE-RQ for pairs of a SOP class and a transfer syntax, with further items of pynetdicom's."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"  # type: ignore[assignment]
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    proposed = [build_context(*pair) for pair in contexts]
    for number, context in enumerate(proposed):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = proposed
    most, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    most.maximum_length_received = _MOST_PDU
    implementation.implementation_class_uid = f"{_ROOT}.1"  # type: ignore[assignment]
    primitive.user_information = [most, implementation, *items]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def _encode_store(item: Item, message: int) -> bytes:
    """Return the command set of a C-STORE request (PS3.7 table 9.3-1), in implicit VR little endian."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    elements = (
        element(0x0002, item.sop_class_uid.encode())
        + element(0x0100, b"\1\0")
        + element(0x0110, struct.pack("<H", message))
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\1\0")
        + element(0x1000, item.sop_instance_uid.encode())
    )
    return element(0, struct.pack("<I", len(elements))) + elements


def _encode(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Return an element in explicit VR little endian (PS3.5 section 7.1.2)."""
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    if vr == b"OW":
        return struct.pack("<HH2sxxI", group, number, vr, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


@cache
def _pixels(frames: int) -> bytes:
    """Return pixels that no file system or network compresses: noise, repeated for the further frames."""
    return os.urandom(SIDE * SIDE * 2) * frames


def make_item(kind: str, number: int, series: int) -> Item:
    """Return an image.

    Parameters
    ----------
    kind
        ``ct``, 0.5 MiB, or ``multiframe``, 200 MiB.
    number, series
        The image's number in its series, and the series's: they tell the UIDs apart.
    """
    frames, uid = (1, CT) if kind == "ct" else (LARGE_FRAMES, ENHANCED_CT)
    study, instance = f"{_ROOT}.{series}", f"{_ROOT}.{series}.1.{number}"
    head = b"".join(
        [
            _encode(0x0008, 0x0016, b"UI", uid.encode()),
            _encode(0x0008, 0x0018, b"UI", instance.encode()),
            _encode(0x0008, 0x0060, b"CS", b"CT"),
            _encode(0x0010, 0x0010, b"PN", b"Bench^Mark"),
            _encode(0x0010, 0x0020, b"LO", b"%d" % series),
            _encode(0x0020, 0x000D, b"UI", study.encode()),
            _encode(0x0020, 0x000E, b"UI", f"{study}.1".encode()),
            _encode(0x0020, 0x0013, b"IS", b"%d" % number),
            _encode(0x0028, 0x0002, b"US", b"\1\0"),
            _encode(0x0028, 0x0004, b"CS", b"MONOCHROME2"),
            _encode(0x0028, 0x0008, b"IS", b"%d" % frames),
            _encode(0x0028, 0x0010, b"US", struct.pack("<H", SIDE)),
            _encode(0x0028, 0x0011, b"US", struct.pack("<H", SIDE)),
            _encode(0x0028, 0x0100, b"US", b"\x10\0"),
            _encode(0x0028, 0x0101, b"US", b"\x10\0"),
            _encode(0x0028, 0x0102, b"US", b"\x0f\0"),
            _encode(0x0028, 0x0103, b"US", b"\0\0"),
        ]
    )
    pixels = _pixels(frames)
    return Item(uid, instance, EXPLICIT, (head + struct.pack("<HH2sxxI", 0x7FE0, 0x10, b"OW", len(pixels)), pixels))


def main(arguments: Sequence[str]) -> int:
    """Send as the arguments say, see above; the exit status is 1 if an object was not accepted."""
    from pathlib import Path  # noqa: PLC0415

    kind, objects, series, host, port, called, *files = arguments
    tls = Certificates(*map(Path, files)).context() if files else None
    items = [make_item(kind, number, int(series)) for number in range(1, int(objects) + 1)]
    contexts = {(item.sop_class_uid, item.transfer_syntax) for item in items}
    with Sender((host, int(port)), called, contexts, tls=tls) as sender:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        began, cpu = time.monotonic(), time.process_time()
        statuses = [sender.store(item) for item in items]
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    figures = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "bytes": sum(sum(map(len, item.data_set)) for item in items),
        "refused": sum(status != SUCCESS for status in statuses),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 1 if figures["refused"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
