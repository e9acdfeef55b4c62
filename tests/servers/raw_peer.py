"""A DICOM peer that sends what a test wants it to, byte by byte, and reads the answers."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.sop_class import CTImageStorage

from airlock_edge.dimse import Command, CommandSet, Field, encode_command
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

_APPLICATION = "1.2.840.10008.3.1.1.1"
CONTEXT = 1  # the presentation context's id


class RawPeer:
    """A connection to an acceptor."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def ask(
        self, calling: str, called: str, abstract: str = CTImageStorage, syntax: str = ExplicitVRLittleEndian
    ) -> tuple[int, bytes]:
        """Send an association request with one presentation context, and return type and content of the answer."""
        context = build_context(abstract, [syntax])
        context.context_id = CONTEXT
        most, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
        most.maximum_length_received = 16384
        implementation.implementation_class_uid = UID("1.2.3.4")
        primitive = A_ASSOCIATE()
        primitive.application_context_name = UID(_APPLICATION)
        primitive.calling_ae_title, primitive.called_ae_title = calling, called
        primitive.presentation_context_definition_list = [context]
        primitive.user_information = [most, implementation]
        pdu = A_ASSOCIATE_RQ()
        pdu.from_primitive(primitive)
        self.connection.sendall(pdu.encode())
        return self.read()

    def read(self) -> tuple[int, bytes]:
        """Return type and content of the next PDU; type 0 if the connection has ended."""
        head = self._take(6)
        if len(head) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxI", head)
        return kind, self._take(length)

    def _take(self, size: int) -> bytes:
        found = b""
        while len(found) < size and (piece := self.connection.recv(size - len(found))):
            found += piece
        return found

    def send_fragment(self, control: int, content: bytes, context: int = CONTEXT) -> None:
        """Send a PDU with one PDV; bit 0 of *control* says that it is of a command, bit 1 that it is the last one."""
        item = struct.pack(">IBB", len(content) + 2, context, control) + content
        self.connection.sendall(struct.pack(">BxI", 4, len(item)) + item)

    def send_store(self, instance: str, *pieces: bytes, sop_class: str = CTImageStorage, last: bool = True) -> None:
        """Send a C-STORE request whose data set has these pieces; without *last* it stays unfinished."""
        values: dict[Field, int | str] = {
            Field.AFFECTED_CLASS: sop_class,
            Field.COMMAND: Command.C_STORE,
            Field.MESSAGE_ID: 1,
            Field.AFFECTED_INSTANCE: instance,
        }
        self.send_fragment(3, encode_command(values, data_set=bool(pieces)))
        for number, piece in enumerate(pieces, start=1):
            self.send_fragment(2 if last and number == len(pieces) else 0, piece)

    def read_status(self) -> int:
        """Return the status of the next response."""
        kind, content = self.read()
        assert kind == 4, kind
        return CommandSet(content[6:]).number(Field.STATUS)


@contextmanager
def raw_peer(port: int) -> Iterator[RawPeer]:
    """Yield a new connection to a port of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        yield RawPeer(connection)
