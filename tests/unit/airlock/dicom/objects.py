"""DICOM objects written byte by byte, so that a test knows where each element ends; a source that counts its reads."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Protocol, cast

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from airlock.dicom.header import KIB, MIB, Header, header_plan, quiet_pydicom

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"
UNDEFINED = 0xFFFFFFFF

# a data set as (tag, VR, value): every test changes or adds some of it
CT = {
    0x00080005: ("CS", b"ISO_IR 100"),
    0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
    0x00080018: ("UI", b"1.2.3.1.1"),
    0x00080020: ("DA", b"20260301"),
    0x00080030: ("TM", b"101500.25 "),
    0x00080050: ("SH", b"ACC-1"),
    0x00080060: ("CS", b"CT"),
    0x00080080: ("LO", "Klinik Süd".encode("latin-1")),
    0x00100010: ("PN", "Müller^Jörg".encode("latin-1")),
    0x00100020: ("LO", b"PID-1 "),
    0x0020000D: ("UI", b"1.2.3"),
    0x0020000E: ("UI", b"1.2.3.1"),
    0x00200010: ("SH", b""),
    0x00200011: ("IS", b"007 "),
    0x00200013: ("IS", b"+12"),
    0x00280008: ("IS", b"1"),
    0x00401001: ("SH", b"RP-TOP"),
    0x7FE00010: ("OW", b"\1\2" * 100),
}
CT_VALUES = {
    "TransferSyntaxUID": EXPLICIT,
    "SpecificCharacterSet": "ISO_IR 100",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "SOPInstanceUID": "1.2.3.1.1",
    "StudyDate": "20260301",
    "StudyTime": "101500.25",
    "AccessionNumber": "ACC-1",
    "Modality": "CT",
    "InstitutionName": "Klinik Süd",
    "PatientName": "Müller^Jörg",
    "PatientID": "PID-1",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.1",
    "StudyID": "",
    "SeriesNumber": "007",
    "InstanceNumber": "+12",
    "NumberOfFrames": "1",
    "RequestedProcedureID": "RP-TOP",
}


@dataclass
class Memory:
    """An object in memory, read by range."""

    data: bytes
    spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def bytes_read(self) -> int:
        return sum(end - start for start, end in self.spans)

    def read(self, start: int, end: int) -> bytes:
        assert 0 <= start < end <= len(self.data)
        self.spans.append((start, end))
        return self.data[start:end]


@dataclass
class Huge(Memory):
    """An object that claims more bytes than it has in memory; the rest are zeros."""

    claimed: int = 0

    @property
    def size(self) -> int:
        return self.claimed

    def read(self, start: int, end: int) -> bytes:
        self.spans.append((start, end))
        return self.data[start:end].ljust(end - start, b"\0")


class Source(Protocol):
    """An object whose bytes can be read by range."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> bytes: ...


def read_header(source: Source, *, first_range: int = 16 * KIB, prefetch: int = 0, max_bytes: int = 16 * MIB) -> Header:
    """Read an object's header, with the reads that `header_plan` asks for."""
    plan = header_plan(source.size, first_range=first_range, prefetch=prefetch, max_bytes=max_bytes)
    with quiet_pydicom():
        try:
            span = next(plan)
            while True:
                span = plan.send(source.read(*span))
        except StopIteration as done:
            return cast("Header", done.value)


def element(tag: int, vr: str, value: bytes, syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    """Encode one element; ``length`` overrides the true one."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    size = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", size) + value
    if vr in EXPLICIT_VR_LENGTH_32:
        return head + vr.encode() + struct.pack(order + "HI", 0, size) + value
    return head + vr.encode() + struct.pack(order + "H", size) + value


def item(content: bytes, syntax: str = EXPLICIT, *, undefined: bool = True) -> bytes:
    """Encode one sequence item."""
    if not undefined:
        return element(0xFFFEE000, "", content, IMPLICIT) if syntax != BIG_ENDIAN else _be_item(content)
    order = ">" if syntax == BIG_ENDIAN else "<"
    opening = struct.pack(order + "HHI", 0xFFFE, 0xE000, UNDEFINED)
    return opening + content + struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0)


def _be_item(content: bytes) -> bytes:
    return struct.pack(">HHI", 0xFFFE, 0xE000, len(content)) + content


def sequence(tag: int, items: list[bytes], syntax: str = EXPLICIT, *, undefined: bool = True) -> bytes:
    """Encode a sequence of items that are encoded already."""
    content = b"".join(items)
    if not undefined:
        return element(tag, "SQ", content, syntax)
    order = ">" if syntax == BIG_ENDIAN else "<"
    end = struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0)
    return element(tag, "SQ", content + end, syntax, length=UNDEFINED)


def meta(syntax: str = EXPLICIT, *, sop_class: bytes = b"1.2.840.10008.5.1.4.1.1.2\0") -> bytes:
    """Encode the preamble, the prefix and the file meta group."""
    body = element(0x00020002, "UI", sop_class) + element(0x00020003, "UI", b"1.2.3.1.1\0")
    body += element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    return b"\0" * 128 + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(body))) + body


def elements(changes: dict[int, tuple[str, bytes] | bytes | None] | None = None, syntax: str = EXPLICIT) -> list[bytes]:
    """Encode the CT's elements in tag order; a change is (VR, value), encoded bytes, or None to leave one out."""
    wanted: dict[int, tuple[str, bytes] | bytes | None] = {**CT, **(changes or {})}
    encoded = []
    for tag, value in sorted(wanted.items()):
        if isinstance(value, bytes):
            encoded.append(value)
        elif value is not None:
            encoded.append(element(tag, *value, syntax))
    return encoded


def ct(changes: dict[int, tuple[str, bytes] | bytes | None] | None = None, syntax: str = EXPLICIT) -> bytes:
    """Encode a whole CT object."""
    return meta(syntax) + b"".join(elements(changes, syntax))
