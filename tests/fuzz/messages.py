"""PDUs and command sets, encoded here without the edge's or pynetdicom's code, so that any field may lie."""

from __future__ import annotations

import struct

CT = "1.2.840.10008.5.1.4.1.1.2"
ECHO = "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
C_STORE, C_ECHO, C_CANCEL, N_ACTION = 0x0001, 0x0030, 0x0FFF, 0x0130
NO_DATA_SET = 0x0101


def pdu(kind: int, content: bytes = b"", length: int | None = None) -> bytes:
    """Return a PDU; its length lies if one is given."""
    return struct.pack(">BxI", kind, len(content) if length is None else length) + content


def item(kind: int, content: bytes, length: int | None = None) -> bytes:
    """Return an item of an association request."""
    return struct.pack(">BxH", kind, (len(content) if length is None else length) & 0xFFFF) + content


def context(number: int, abstract: str = CT, *syntaxes: str) -> bytes:
    """Return a proposed presentation context; with explicit VR little endian if no transfer syntax is given."""
    offered = b"".join(item(0x40, uid.encode()) for uid in syntaxes or (EXPLICIT,))
    return item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract.encode()) + offered)


def user_information(most: int = 16384, *more: bytes) -> bytes:
    """Return the item of user information with the largest PDU that the peer takes."""
    return item(0x50, item(0x51, struct.pack(">I", most)) + item(0x52, b"1.2.3.4") + b"".join(more))


def request(
    calling: str, called: str, *items: bytes, application: str = "1.2.840.10008.3.1.1.1", version: int = 1
) -> bytes:
    """Return an A-ASSOCIATE-RQ with these items behind the application context."""
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    fixed = struct.pack(">Hxx", version) + titles + bytes(32)
    return pdu(0x01, fixed + item(0x10, application.encode()) + b"".join(items))


def pdv(control: int, content: bytes, number: int = 1, length: int | None = None) -> bytes:
    """Return a PDV."""
    return struct.pack(">IBB", (len(content) + 2 if length is None else length) & 0xFFFFFFFF, number, control) + content


def data(control: int, content: bytes, number: int = 1) -> bytes:
    """Return a P-DATA-TF with one PDV."""
    return pdu(0x04, pdv(control, content, number))


def element(number: int, value: bytes | int | str, group: int = 0, length: int | None = None) -> bytes:
    """Return an element of a command set."""
    raw = struct.pack("<H", value) if isinstance(value, int) else value.encode() if isinstance(value, str) else value
    raw += b"\0" * (len(raw) % 2)
    return struct.pack("<HHI", group, number, len(raw) if length is None else length) + raw


def command(field: int, *more: bytes, message: int | None = 7, data_set: int = 1) -> bytes:
    """Return a command set; without a message id if it is None."""
    numbered = b"" if message is None else element(0x0110, message)
    rest = element(0x0100, field) + numbered + element(0x0800, data_set) + b"".join(more)
    return element(0x0000, struct.pack("<I", len(rest))) + rest


def store(instance: str, message: int | None = 7, data_set: int = 1) -> bytes:
    """Return the command set of a C-STORE request."""
    return command(C_STORE, element(0x0002, CT), element(0x1000, instance), message=message, data_set=data_set)


def echo(message: int = 9) -> bytes:
    """Return the command set of a C-ECHO request."""
    return command(C_ECHO, element(0x0002, ECHO), message=message, data_set=NO_DATA_SET)


RELEASE = pdu(0x05, bytes(4))
ABORT = pdu(0x07, bytes(4))
