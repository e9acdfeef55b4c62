"""pydicom as the oracle: on every file that it and pydicom-data ship, the values are those that ``dcmread`` finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydicom.errors import InvalidDicomError

from airlock.dicom.errors import HeaderError
from airlock.reasons import Reason
from tests.unit.airlock.dicom.objects import Memory, read_header
from tests.unit.airlock.dicom.oracle import FILES, has_pixels, pydicom_values

if TYPE_CHECKING:
    from pathlib import Path

FIRST_RANGE = 16 * 1024
TEXT_OF_CUT_FILES = {"MR_truncated.dcm", "rtplan_truncated.dcm"}


def ours(path: Path) -> tuple[dict[str, str], Reason | None]:
    try:
        return read_header(Memory(path.read_bytes())).values, None
    except HeaderError as error:
        return error.values, error.reason


def test_there_are_enough_files_for_this_to_mean_something() -> None:
    assert len(FILES) > 240


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_values_are_those_of_pydicom(path: Path) -> None:
    values, reason = ours(path)
    try:
        expected = pydicom_values(path.read_bytes())
    except InvalidDicomError:
        assert reason in {
            Reason.NOT_DICOM,
            Reason.UNREADABLE,
            Reason.NO_PREAMBLE,
            Reason.GZIP_ENCODED,
            Reason.EMPTY_OBJECT,
        }
        return
    if path.name.startswith("DICOMDIR"):
        assert reason is Reason.DICOMDIR
        return
    assert values == expected
    assert reason == (Reason.TRUNCATED if path.name in TEXT_OF_CUT_FILES else None)
    if reason is None:
        ends = read_header(Memory(path.read_bytes())).ends_without_pixels
        assert not (ends and has_pixels(path.read_bytes()))
        assert ends or has_pixels(path.read_bytes()) or path.stat().st_size > FIRST_RANGE
