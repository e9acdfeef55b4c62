"""Two files have the same pixels only if that is proven; another header does not change it."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from airlock.dicom.pixels import digest_pixels
from airlock_local.sample.part10 import make_ct_slice, make_item, make_sequence
from tests.dicom_files import ct

FRAMES = [b"\xff\x4f\xff\x51" + bytes([number]) * 20 for number in (1, 2)]


def digest(body: bytes) -> str | None:
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        return digest_pixels(file, len(body))


def encapsulated(*frames: bytes, **changes: Any) -> bytes:
    pixels = encapsulate(list(frames), has_bot=False)
    identity = {"SOPInstanceUID": "1.2.3", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1"}
    return make_ct_slice(JPEG2000Lossless, PixelData=pixels, NumberOfFrames=len(frames), **(identity | changes))


@pytest.mark.parametrize(
    "changed",
    [
        {"PatientName": "Corrected^Name"},
        {"StudyDescription": "x" * 400, "WindowCenter": 40, "WindowWidth": 400},
        {"ReferencedStudySequence": make_sequence(make_item(ReferencedSOPInstanceUID="1.2"))},
    ],
)
def test_another_header_has_the_same_pixels(changed: dict[str, Any]) -> None:
    assert digest(ct()) == digest(ct(**changed)) is not None
    assert digest(encapsulated(*FRAMES)) == digest(encapsulated(*FRAMES, **changed)) is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"pixel": 9},
        {"Rows": 8, "Columns": 32},
        {"PixelRepresentation": 1},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"BitsStored": 16, "HighBit": 15},
    ],
)
def test_other_pixels_or_another_reading_of_them_differ(changed: dict[str, Any]) -> None:
    assert digest(ct()) != digest(ct(**changed))


def test_what_stands_between_header_and_pixels_counts() -> None:
    group = make_sequence(make_item(FrameAcquisitionNumber=2))
    assert digest(ct()) != digest(ct(PerFrameFunctionalGroupsSequence=group))


def test_both_native_encodings_hold_the_same_pixels_and_others_prove_nothing() -> None:
    identity = {"SOPInstanceUID": "1.2.3", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1"}

    def encoded(syntax: str) -> str | None:
        return digest(make_ct_slice(syntax, **identity))

    assert encoded(ImplicitVRLittleEndian) == encoded(ExplicitVRLittleEndian) is not None
    assert encoded(ExplicitVRBigEndian) not in {None, encoded(ExplicitVRLittleEndian)}
    assert encoded(DeflatedExplicitVRLittleEndian) is None


def test_frames_in_another_order_differ() -> None:
    assert digest(encapsulated(*FRAMES)) != digest(encapsulated(*reversed(FRAMES)))


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"\0" * 4000,
        ct()[:-10],
        ct(PixelData=None),
        encapsulated(*FRAMES)[:-9],
        ct()[:200],
        b"\0" * 128 + b"DICM" + b"\xff" * 500,
    ],
)
def test_a_file_without_whole_pixels_proves_nothing(body: bytes) -> None:
    assert digest(body) is None
