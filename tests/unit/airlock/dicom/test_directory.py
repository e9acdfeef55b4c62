"""Media directories: the files that they name, with their studies; a damaged one names nothing."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from airlock.dicom.directory import read_directory
from tests.dicom_files import ct, study_uid
from tests.media import burn


@pytest.fixture(scope="module")
def medium() -> dict[str, bytes]:
    return burn([ct(1, 1, 1), ct(1, 2, 1), ct(2, 1, 1)])


def test_each_file_is_named_with_its_study(medium: dict[str, bytes]) -> None:
    found = read_directory(medium["DICOMDIR"])
    assert set(found) == {path.lower() for path in medium if path != "DICOMDIR"}
    assert sorted(found.values()) == sorted([study_uid(1), study_uid(1), study_uid(2)])


def test_records_that_point_at_each_other_are_followed_once(medium: dict[str, bytes]) -> None:
    directory = dcmread(BytesIO(medium["DICOMDIR"]))
    first = directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity
    for record in directory.DirectoryRecordSequence:
        record.OffsetOfTheNextDirectoryRecord = first
    out = BytesIO()
    directory.save_as(out)
    assert len(read_directory(out.getvalue())) >= 1


def test_a_directory_without_records_names_nothing() -> None:
    out = BytesIO()
    empty = Dataset()
    empty.DirectoryRecordSequence = Sequence([])
    empty.save_as(out, implicit_vr=False, little_endian=True)
    assert read_directory(out.getvalue()) == {}


@pytest.mark.parametrize("cut", [0, 10, 200, 700])
def test_a_cut_directory_raises_nothing(medium: dict[str, bytes], cut: int) -> None:
    assert set(read_directory(medium["DICOMDIR"][:cut])) <= {path.lower() for path in medium}


def test_noise_names_nothing() -> None:
    assert read_directory(bytes(range(256)) * 40) == {}
