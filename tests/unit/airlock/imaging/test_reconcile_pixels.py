"""Frames of uncompressed files have checksums; of other files nothing is said."""

from __future__ import annotations

import zlib

import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from airlock.imaging.reconcile_pixels import checksum_frames
from airlock_local.sample.part10 import SLICE_SIDE, make_ct_slice
from tests.dicom_files import ct

FRAME = 2 * SLICE_SIDE * SLICE_SIDE


def test_each_frame_has_a_checksum() -> None:
    pixels = b"\x01\x02" * (FRAME // 2) + b"\x03\x04" * (FRAME // 2)
    expected = [zlib.crc32(pixels[:FRAME]), zlib.crc32(pixels[FRAME:])]
    assert checksum_frames(ct(NumberOfFrames=2, PixelData=pixels)) == expected
    assert checksum_frames(make_ct_slice(ImplicitVRLittleEndian, NumberOfFrames=2, PixelData=pixels)) == expected


@pytest.mark.parametrize(
    "body",
    [
        make_ct_slice(ExplicitVRBigEndian),
        ct(PixelData=None),
        ct(PixelData=b"\x00" * (FRAME - 2)),
        ct(Rows=None),
        ct()[:300],
        b"",
        b"no DICOM",
    ],
)
def test_nothing_is_said_of_a_file_that_is_not_plain(body: bytes) -> None:
    assert checksum_frames(body) is None
