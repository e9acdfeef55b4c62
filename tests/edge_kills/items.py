"""Small objects to send, each with its own content."""

from __future__ import annotations

from benchmarks.dicom_sender import CT, EXPLICIT, Item

from tests.dicom_files import ct, sop_uid

IN_STUDY = 20  # instances
_LARGE = 300_000  # bytes of pixels of one in ten


def make_small(number: int, pixels: int = 512) -> Item:
    """Return a CT slice with a number; another number has another content."""
    study = 1 + number // IN_STUDY
    file = ct(study, 1, number, PixelData=number.to_bytes(4, "little") * (pixels // 4))
    start = 144 + int.from_bytes(file[140:144], "little")  # behind the file meta group (PS3.10 section 7.1)
    return Item(CT, sop_uid(study, 1, number), EXPLICIT, (file[start:],))


def make_mixed(number: int) -> Item:
    """Return a CT slice, one in ten of which is larger than a PDU."""
    return make_small(number, _LARGE if number % 10 == 0 else 512)
