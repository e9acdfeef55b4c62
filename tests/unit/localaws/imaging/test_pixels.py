"""Frames: cut apart, described, and the warnings when that fails."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.filereader import dcmread
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    ExplicitVRLittleEndian,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from localaws.imaging.part10 import read_instance
from localaws.imaging.pixels import CONTENT_TYPES, Frames
from tests.contract.localaws.dicom_files import part10

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def frames_of(body: bytes) -> Frames:
    return read_instance(body, {}).pixels


def shipped(name: str) -> Frames:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return frames_of(Path(path).read_bytes())


def encapsulated(syntax: str, frames: list[bytes], announced: int | None = None, **changes: Any) -> bytes:
    count = len(frames) if announced is None else announced
    return part10(syntax, PixelData=encapsulate(frames), NumberOfFrames=count, **changes)


def native(**changes: Any) -> bytes:
    return part10(**changes)


def test_native_frames_are_cut_and_described() -> None:
    first, second = struct.pack("<4H", 5, 1, 2, 3), struct.pack("<4H", 9, 8, 7, 6)
    found = frames_of(native(Rows=2, Columns=2, NumberOfFrames=2, PixelData=first + second))
    assert found.transfer_syntax == ExplicitVRLittleEndian
    assert [frame.data for frame in found.frames] == [first, second]
    assert [(frame.lowest, frame.highest) for frame in found.frames] == [(1, 5), (6, 9)]
    assert found.frames[0].description() == {
        "MinPixelValue": 1,
        "MaxPixelValue": 5,
        "FrameSizeInBytes": 8,
        "PixelDataChecksumFromBaseToFullResolution": [{"Width": 2, "Height": 2, "Checksum": zlib.crc32(first)}],
    }


def test_signed_values_are_read_as_signed() -> None:
    found = frames_of(native(Rows=1, Columns=2, PixelRepresentation=1, PixelData=struct.pack("<2h", -5, 3)))
    assert (found.frames[0].lowest, found.frames[0].highest) == (-5, 3)


def test_big_endian_pixels_become_little_endian() -> None:
    big, little = shipped("MR_small_bigendian.dcm"), shipped("MR_small.dcm")
    assert big.frames == little.frames
    assert big.transfer_syntax == ExplicitVRLittleEndian


def test_deflated_and_run_length_encoded_pixels_are_stored_uncompressed() -> None:
    assert shipped("image_dfl.dcm").transfer_syntax == ExplicitVRLittleEndian
    rle, plain = shipped("MR_small_RLE.dcm"), shipped("MR_small.dcm")
    assert rle.frames == plain.frames
    assert rle.transfer_syntax == ExplicitVRLittleEndian


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEG2000, HTJ2KLosslessRPCL])
def test_what_the_service_keeps_is_kept_as_it_is(syntax: str) -> None:
    found = frames_of(encapsulated(syntax, [b"frame-1!", b"frame-two!"]))
    assert [frame.data for frame in found.frames] == [b"frame-1!", b"frame-two!"]
    assert (found.transfer_syntax, found.warnings) == (syntax, [])
    assert CONTENT_TYPES[syntax].startswith("image/")


def test_a_video_is_one_frame_whatever_it_announces() -> None:
    found = frames_of(encapsulated(MPEG2MPML, [b"stream-of-video!"], announced=300))
    assert [frame.data for frame in found.frames] == [b"stream-of-video!"]
    assert CONTENT_TYPES[MPEG2MPML] == "video/mpeg"


def test_what_no_installed_decoder_reads_keeps_its_encoding() -> None:
    found = frames_of(encapsulated(JPEG2000Lossless, [b"not really a codestream!"]))
    assert (found.transfer_syntax, found.warnings) == (JPEG2000Lossless, [])


def test_a_limit_of_an_installed_decoder_is_no_fault_of_the_file() -> None:
    """Pillow reads no JPEG of 12 bits; the service does, and whether Pillow is here changes nothing."""
    found = shipped("JPEG-lossy.dcm")
    assert len(found.frames) == 1
    assert found.warnings == []


@pytest.mark.parametrize(
    ("body", "warning"),
    [
        (native(NumberOfFrames=2), "FRAMES_EXTRACTION_FAILURE"),
        (native(Rows=None), "FRAMES_EXTRACTION_FAILURE"),
        (native(Rows=8), "FRAME_NUMBER_MISMATCH"),
        (encapsulated(JPEGBaseline8Bit, [b"one-one!", b"two-two!"], announced=3), "FRAME_NUMBER_MISMATCH"),
        (part10("1.2.826.0.1.3680043.10.1579.99"), "UNSUPPORTED_TRANSFER_SYNTAX"),
    ],
    ids=["too short", "no Rows", "too long", "frames missing", "unknown syntax"],
)
def test_frames_that_cannot_be_cut_warn(body: bytes, warning: str) -> None:
    assert frames_of(body).warnings == [warning]


def test_an_offset_table_that_points_nowhere_warns() -> None:
    body = encapsulated(JPEGBaseline8Bit, [b"one-one!", b"two-two!"])
    table = struct.pack("<HHI2I", 0xFFFE, 0xE000, 8, 0, 16)
    assert table in body
    broken = body.replace(table, struct.pack("<HHI2I", 0xFFFE, 0xE000, 8, 0, 15))
    found = frames_of(broken)
    assert (found.warnings, found.frames) == (["INVALID_OFFSET_TABLE"], [])


def test_an_object_without_pixels_has_no_frames_and_no_warning() -> None:
    found = shipped("reportsi.dcm")
    assert (found.frames, found.warnings) == ([], [])
    assert "PixelData" not in dcmread(str(get_testdata_file("reportsi.dcm")))
