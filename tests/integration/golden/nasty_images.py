"""A small DICOM delivery with every trouble that the rules know, file contents by name."""

from __future__ import annotations

import gzip
import random
import struct

from tests.dicom_files import ct

PIXEL_DATA = struct.pack("<HH", 0x7FE0, 0x0010)
NOISE = random.Random(20261124).randbytes(5000)


def nasty_images() -> dict[str, bytes]:
    """Return the delivery: clean studies, duplicates, conflicts, damaged files, sidecars, hostile text."""
    return _clean() | _conflicts() | _broken() | _sidecars()


def _clean() -> dict[str, bytes]:
    numbers = [(study, series, instance) for study in (1, 2) for series in (1, 2) for instance in (1, 2, 3)]
    named = {f"clean/study {s}/series+{e}/im é {i:03}.dcm": ct(s, e, i) for s, e, i in numbers}
    hostile = {"StudyDescription": "<script>alert(1)</script>", "SeriesDescription": "=cmd|' /C calc'!A0"}
    return named | {"hostile/html.dcm": ct(30, 1, 1, **hostile)}


def _conflicts() -> dict[str, bytes]:
    return {
        "duplicates/a.dcm": ct(10, 1, 1),
        "duplicates/b.dcm": ct(10, 1, 1),
        "conflict/same-uid-1.dcm": ct(11, 1, 1),
        "conflict/same-uid-2.dcm": ct(11, 1, 1, SeriesDescription="OTHER"),
        "conflict/patient-a-1.dcm": ct(12, 1, 1),
        "conflict/patient-a-2.dcm": ct(12, 1, 2),
        "conflict/patient-b.dcm": ct(12, 1, 3, PatientID="PID-OTHER"),
        "conflict/series-number-1.dcm": ct(13, 1, 1),
        "conflict/series-number-2.dcm": ct(13, 1, 2, SeriesNumber=9),
        "conflict/patient-and-date-1.dcm": ct(14, 1, 1),
        "conflict/patient-and-date-2.dcm": ct(14, 1, 2, PatientID="PID-OTHER", StudyDate="20260302"),
        "spelling/series-number-1.dcm": ct(15, 1, 1),
        "spelling/series-number-01.dcm": _spelled(ct(15, 1, 2), b"1 ", b"01"),
        "spelling/blanks-1.dcm": ct(16, 1, 1),
        "spelling/blanks-2.dcm": ct(16, 1, 2, PatientID=" PID-16 "),
        "incomplete/cut.dcm": ct(17, 1, 1)[:-100],
        "incomplete/whole.dcm": ct(17, 1, 2),
    }


def _spelled(file: bytes, old: bytes, new: bytes) -> bytes:
    """Return the file with its SeriesNumber (0020,0011) spelled in other bytes."""
    head = struct.pack("<HH2sH", 0x0020, 0x0011, b"IS", len(old))
    assert head + old in file
    return file.replace(head + old, head + new)


def _broken() -> dict[str, bytes]:
    whole, declared, headless = ct(23, 1, 1), ct(26, 1, 1), ct(28, 1, 1)
    private = struct.pack("<HH2sHI", 0x0043, 0x1001, b"OB", 0, 0x7FFFFFF0)
    return {
        "broken/no-study-uid.dcm": ct(20, 1, 1, StudyInstanceUID=None),
        "broken/no-sop-class.dcm": ct(21, 1, 1, SOPClassUID=None),
        "broken/long-patient-id.dcm": ct(22, 1, 1, PatientID="X" * 300),
        "broken/cut-in-header.dcm": whole[:300],
        "broken/cut-in-pixels.dcm": whole[:-400],
        "broken/ends-before-pixels.dcm": headless[: headless.index(PIXEL_DATA)],
        "broken/gzipped.dcm": gzip.compress(ct(24, 1, 1), mtime=0),
        "broken/no-preamble.dcm": ct(25, 1, 1)[132:],
        "broken/declares-2-gib.dcm": declared.replace(PIXEL_DATA, private + PIXEL_DATA, 1),
        "broken/bad-element.dcm": ct(27, 1, 1).replace(PIXEL_DATA, b"\x43\x00\x02\x10??\x04\x00ABCD" + PIXEL_DATA, 1),
        "broken/deep-nesting.dcm": _deep(2000),
        "broken/empty.dcm": b"",
        "broken/random.dcm": NOISE,
        "broken/dicm-then-noise.dcm": b"\0" * 128 + b"DICM" + NOISE,
    }


def _deep(levels: int) -> bytes:
    """Return a file whose only trouble is a sequence nested so deep, of undefined lengths."""
    opening = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return ct(60, 1, 1).replace(PIXEL_DATA, opening * levels + closing * levels + PIXEL_DATA, 1)


def _sidecars() -> dict[str, bytes]:
    return {
        "sidecars/photo.jpg": b"\xff\xd8\xff\xe0\0\x10JFIF" + NOISE[:900],
        "sidecars/readme.txt": b"exported by the old archive\n",
        "sidecars/.DS_Store": b"\0\0\0\1Bud1",
        "sidecars/_SUCCESS": b"",
    }
