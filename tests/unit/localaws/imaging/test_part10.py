"""One file: imported, imported with a warning, or rejected with a reason that quotes no value."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from localaws.imaging.part10 import RejectedFileError, read_instance
from localaws.settings import LENGTH_LIMITS
from tests.contract.localaws.dicom_files import part10

if TYPE_CHECKING:
    from localaws.imaging.part10 import Instance

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PIXELS = struct.pack("<HH", 0x7FE0, 0x0010)
TEST_FILES = Path(pydicom.__file__).parent / "data/test_files"


def read(body: bytes) -> Instance:
    return read_instance(body, LENGTH_LIMITS)


def reason(body: bytes) -> str:
    with pytest.raises(RejectedFileError) as caught:
        read(body)
    return str(caught.value)


def before_pixels(body: bytes, inserted: bytes) -> bytes:
    at = body.index(PIXELS)
    return body[:at] + inserted + body[at:]


def nested(levels: int) -> bytes:
    opening = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return before_pixels(part10(), opening * levels + closing * levels)


def test_a_clean_file_has_no_warning_and_its_attributes_at_their_levels() -> None:
    instance = read(part10(PatientID="P", SeriesDescription="S", ImageComments="I"))
    assert instance.warnings == []
    assert instance.levels.patient["PatientID"] == "P"
    assert instance.levels.study["StudyDate"] == "20260301"
    assert instance.levels.series["SeriesDescription"] == "S"
    assert instance.levels.instance["ImageComments"] == "I"
    assert "PixelData" not in instance.levels.instance


@pytest.mark.parametrize("keyword", ["SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_or_empty_identifier_is_named(keyword: str, value: str | None) -> None:
    assert reason(part10(**{keyword: value})) == f"DICOM attribute {keyword} does not exist"


def test_a_missing_transfer_syntax_is_named() -> None:
    body = (TEST_FILES / "meta_missing_tsyntax.dcm").read_bytes()
    assert reason(body) == "DICOM attribute TransferSyntaxUID does not exist"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 128 + b"DICM",
        b"\xff\xd8\xff\xe0" * 100,
        part10()[132:],
        gzip.compress(part10(), mtime=0),
        (TEST_FILES / "no_meta.dcm").read_bytes(),
    ],
    ids=["empty", "preamble only", "JPEG", "no preamble", "gzip", "no meta"],
)
def test_what_is_no_part_10_file_is_rejected(body: bytes) -> None:
    assert reason(body) == "DICOM attributes does not exist"


def test_noise_after_the_preamble_is_rejected() -> None:
    noise = bytes((index * 197 + index // 7) % 256 for index in range(5000))
    assert reason(b"\0" * 128 + b"DICM" + noise)


def test_a_directory_is_rejected() -> None:
    assert reason((TEST_FILES / "dicomdirtests/DICOMDIR").read_bytes()) == "DICOM attribute SOPClassUID does not exist"


@pytest.mark.parametrize(("keyword", "longest"), sorted(LENGTH_LIMITS.items()))
def test_each_length_limit_holds_at_its_maximum_and_one_beyond(keyword: str, longest: int) -> None:
    digits = "1" * longest
    assert read(part10(**{keyword: digits}))
    assert reason(part10(**{keyword: digits + "1"})) == f"DICOM attribute {keyword} is longer than {longest} characters"


@pytest.mark.parametrize("keyword", ["NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"])
def test_a_count_has_a_largest_value(keyword: str) -> None:
    assert read(part10(**{keyword: 1_000_000}))
    assert reason(part10(**{keyword: 1_000_001})) == f"DICOM attribute {keyword} is larger than 1000000"


def test_a_file_cut_in_its_header_is_rejected_and_one_cut_in_its_pixels_warns() -> None:
    body = part10()
    assert reason(body[: body.index(b"CT CHEST") + 4]) == "DICOM file is truncated"
    assert read(body[:-100]).warnings == ["FRAMES_EXTRACTION_FAILURE"]


def test_an_element_that_declares_two_gibibytes_is_truncated() -> None:
    element = struct.pack("<HH2sHI", 0x0043, 0x1001, b"OB", 0, 0x7FFFFFF0)
    assert reason(before_pixels(part10(), element)) == "DICOM file is truncated"


def test_nesting_beyond_the_recursion_limit_raises_what_the_importer_turns_into_a_failure() -> None:
    with pytest.raises(RecursionError):
        read(nested(2000))
    assert read(nested(5)).warnings == []


def test_a_uid_of_the_wrong_form_warns() -> None:
    assert read(part10(StudyInstanceUID="1.02.3")).warnings == ["INVALID_UID_FORMAT"]
    assert read(part10(StudyInstanceUID="1." + "2" * 63)).warnings == ["INVALID_UID_FORMAT"]


def test_another_sop_class_in_the_meta_group_warns() -> None:
    body = part10().replace(b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.1.1.4", 1)
    assert read(body).warnings == ["SOP_CLASS_DATA_MISMATCH"]


def test_an_element_that_breaks_its_vr_is_discarded_with_a_warning() -> None:
    element = struct.pack("<HH2sH", 0x0028, 0x0106, b"US", 3) + b"abc"
    instance = read(before_pixels(part10(), element))
    assert instance.warnings == ["ELEMENTS_DISCARDED"]
    assert "SmallestImagePixelValue" not in instance.levels.instance


def test_every_file_that_ships_with_pydicom_is_read_or_rejected() -> None:
    paths = sorted(TEST_FILES.rglob("*.dcm"))
    assert 50 < sum(map(is_read, paths)) < len(paths)


def is_read(path: Path) -> bool:
    try:
        return bool(read(path.read_bytes()).sop_instance_uid)
    except RejectedFileError:
        return False
