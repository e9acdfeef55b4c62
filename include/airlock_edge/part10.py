"""The header of a stored file: preamble, prefix and file meta group (PS3.10 section 7.1)."""

from __future__ import annotations

import struct

from airlock_edge.negotiation import IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION

_PREAMBLE = bytes(128) + b"DICM"
_LONG = struct.Struct("<HH2sxxI")
_SHORT = struct.Struct("<HH2sH")


def make_header(sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str) -> bytes:
    """Return the bytes before a data set.

    They depend on nothing but the arguments, so that the same data set is the same file whoever sends it and whenever:
    there is no Source Application Entity Title (0002,0016).
    """
    elements = (
        _LONG.pack(2, 1, b"OB", 2)
        + b"\0\1"
        + _encode(0x0002, b"UI", sop_class_uid)
        + _encode(0x0003, b"UI", sop_instance_uid)
        + _encode(0x0010, b"UI", transfer_syntax)
        + _encode(0x0012, b"UI", IMPLEMENTATION_CLASS)
        + _encode(0x0013, b"SH", IMPLEMENTATION_VERSION)
    )
    return _PREAMBLE + _SHORT.pack(2, 0, b"UL", 4) + struct.pack("<I", len(elements)) + elements


def _encode(number: int, vr: bytes, text: str) -> bytes:
    raw = text.encode("ascii", "replace")
    raw += (b"\0" if vr == b"UI" else b" ") * (len(raw) % 2)
    return _SHORT.pack(2, number, vr, len(raw)) + raw
