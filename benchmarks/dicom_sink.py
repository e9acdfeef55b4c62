"""A receiver that does the least: it reads objects and answers success. It shows the limits of the sender and the disk.

``python -m benchmarks.dicom_sink PORT FOLDER [CA CERTIFICATE KEY]`` serves until it is ended.
Each association has a process. If the folder is ``-`` it keeps nothing. Otherwise it writes each data set to a file and
flushes the file and the folder before its answer: a durable receiver cannot do less.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import ssl
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_PDU = 128 * 1024


def main(arguments: Sequence[str]) -> None:
    """Serve until stopped."""
    port, folder, *files = arguments
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets processes that have ended
    tls = None
    if files:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files[0])
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_cert_chain(*files[1:])
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                with suppress(OSError, EOFError):
                    secured = connection if tls is None else tls.wrap_socket(connection, server_side=True)
                    _serve(secured, None if folder == "-" else Disk(Path(folder)))
                os._exit(0)
            connection.close()


class Disk:
    """Writes one object after the other.

    Parameters
    ----------
    folder
        The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = (folder / f"{os.getpid()}-{number}" for number in itertools.count())
        self._folder = os.open(folder, os.O_RDONLY)
        self._file = -1

    def write(self, content: memoryview) -> None:
        """Write the next bytes of an object."""
        if self._file < 0:
            self._path = next(self._paths)
            self._file = os.open(self._path.with_suffix(".part"), os.O_WRONLY | os.O_CREAT)
        os.write(self._file, content)

    def finish(self) -> None:
        """Flush the object, give it its name, and flush the folder."""
        os.fdatasync(self._file)
        os.close(self._file)
        self._path.with_suffix(".part").rename(self._path)
        os.fsync(self._folder)
        self._file = -1


def _serve(connection: socket.socket, disk: Disk | None) -> None:
    """Answer one association; each message's last fragment of a data set is answered."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(1024 * 1024))
    with connection, connection.makefile("rb", buffering=256 * 1024) as file:
        head = file.read(6)
        if not head:  # somebody looked whether it listens
            return
        connection.sendall(_accept(head + file.read(int.from_bytes(head[2:], "big"))))
        while head := file.read(6):
            body = buffer[: int.from_bytes(head[2:], "big")]
            if file.readinto(body) != len(body):
                raise EOFError
            if head[0] == 4 and disk is not None and not body[5] & 1:
                disk.write(body[6:])
            if head[0] == 4 and body[5] == 2:
                if disk is not None:
                    disk.finish()
                connection.sendall(_RESPONSE_HEAD + bytes(body[4:5]) + _RESPONSE)
            elif head[0] == 5:
                connection.sendall(b"\6\0\0\0\0\4\0\0\0\0")
                return


def _accept(request: bytes) -> bytes:
    proposal = A_ASSOCIATE_RQ()
    proposal.decode(request)
    asked = proposal.to_primitive()
    contexts = asked.presentation_context_definition_list
    for context in contexts:
        context.result, context.transfer_syntax = 0, context.transfer_syntax[:1]
    primitive = A_ASSOCIATE()
    primitive.application_context_name = asked.application_context_name
    primitive.calling_ae_title, primitive.called_ae_title = asked.calling_ae_title, asked.called_ae_title
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = contexts
    most, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    most.maximum_length_received = _MOST_PDU
    implementation.implementation_class_uid = "1.2.3.4"  # type: ignore[assignment]
    primitive.user_information = [most, implementation]
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(primitive)
    return pdu.encode()


_COMMAND = b"".join(
    struct.pack("<HHIH", 0, number, 2, value)
    for number, value in ((0x0100, 0x8001), (0x0120, 1), (0x0800, 0x0101), (0x0900, 0))
)
_COMMAND = struct.pack("<HHII", 0, 0, 4, len(_COMMAND)) + _COMMAND
_RESPONSE_HEAD = struct.pack(">BxII", 4, len(_COMMAND) + 6, len(_COMMAND) + 2)
_RESPONSE = b"\3" + _COMMAND

if __name__ == "__main__":
    main(sys.argv[1:])
