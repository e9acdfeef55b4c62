"""pydicom as the oracle: on every file that it and pydicom-data ship, the values are those that ``dcmread`` finds."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data_store
import pydicom
import pytest
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.valuerep import IS

from airlock.dicom.errors import HeaderError
from airlock.dicom.header import TAGS, read_header
from airlock.reasons import Reason
from tests.unit.airlock.dicom.objects import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

ROOTS = (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent)
FILES = [path for root in ROOTS for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
TEXT_OF_CUT_FILES = {"MR_truncated.dcm", "rtplan_truncated.dcm"}


def text(value: object) -> str:
    """Return what pydicom made of a value as it was stored."""
    if isinstance(value, MultiValue):
        return "\\".join(text(each) for each in value)
    return value.original_string if isinstance(value, IS) else str("" if value is None else value)


def pydicom_values(data: bytes) -> dict[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        found = dict(_values(dataset))
        for request in dataset.get("RequestAttributesSequence") or ():
            if "RequestedProcedureID" in request:
                return found | {"RequestedProcedureID": text(request.RequestedProcedureID)}
        return found


def _values(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for keyword, tag in TAGS.items():
        source: Any = dataset.file_meta if keyword == "TransferSyntaxUID" else dataset
        if tag in source:
            yield keyword, text(source[tag].value)


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
        assert reason in {Reason.NOT_DICOM, Reason.NO_PREAMBLE, Reason.GZIP_ENCODED, Reason.EMPTY_OBJECT}
        return
    if path.name.startswith("DICOMDIR"):
        assert reason is Reason.DICOMDIR
        return
    assert values == expected
    assert reason == (Reason.TRUNCATED if path.name in TEXT_OF_CUT_FILES else None)
