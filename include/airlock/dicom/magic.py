"""The kind of an object by its first bytes, if it is not a Part 10 file."""

from __future__ import annotations

from struct import unpack_from

from pydicom.valuerep import VR

PREAMBLE = 128  # bytes before the prefix, PS3.10 section 7.1
PREFIX = b"DICM"
_GZIP = b"\x1f\x8b"
_VRS = frozenset(vr.encode() for vr in VR)
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
    b"Rar!": "RAR",
    b"7z\xbc\xaf": "7-Zip",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"MZ": "Windows program",
    b"\x7fELF": "Linux program",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"n+1\0": "NIfTI",
    b"SQLite format 3": "SQLite",
}


def is_part10(first: bytes) -> bool:
    """Return whether a preamble and the DICM prefix come first (PS3.10 section 7.1)."""
    return first[PREAMBLE : PREAMBLE + len(PREFIX)] == PREFIX


def is_gzip(first: bytes) -> bool:
    """Return whether this is the start of a gzip stream (RFC 1952)."""
    return first.startswith(_GZIP)


def looks_like_data_set(first: bytes, size: int) -> bool:
    """Return whether a data set without a preamble may start here: an element of group 0002 or 0008.

    Parameters
    ----------
    first
        The object's first bytes.
    size
        Bytes of the whole object; an element must fit in it.
    """
    if len(first) < 8:
        return False
    group, element = unpack_from("<HH", first)
    if first[4:6] in _VRS:  # explicit VR, of either byte order
        return group in (0x0002, 0x0008, 0x0200, 0x0800)
    (length,) = unpack_from("<I", first, 4)
    return group in (0x0002, 0x0008) and element <= 0x0070 and length <= min(1024, size - 8)


def begins_like_dicom(first: bytes) -> bool:
    """Return whether the prefix, or the first group of a data set, begins an object that is not a data set."""
    return PREFIX in first[: 2 * PREAMBLE] or first[:2] in {b"\x02\0", b"\x08\0"}


def name_content(first: bytes) -> str:
    """Return the name, for people, of the format that the object seems to have."""
    for magic, name in _MAGIC.items():
        if first.startswith(magic):
            return name
    sample = first[:512]
    if all(byte >= 0x20 or byte in b"\t\r\n\f" for byte in sample):
        return "text"
    return "unknown content"
