"""What pydicom's own ``dcmread`` finds in an object, as text; and the files that pydicom and pydicom-data ship."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data_store
import pydicom
from pydicom.multival import MultiValue
from pydicom.valuerep import IS

from airlock.dicom.elements import PIXELS
from airlock.dicom.header import TAGS
from airlock.records import PROCEDURE_CODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

ROOTS = (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent)
FILES = [path for root in ROOTS for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")


def pydicom_values(data: bytes, *, stop_before_pixels: bool = True) -> dict[str, str]:
    """Return the text of the attributes; RequestedProcedureID is that of the first request which has one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=stop_before_pixels)
        found = dict(_values(dataset))
        for request in dataset.get("RequestAttributesSequence") or ():
            if "RequestedProcedureID" in request:
                return found | {"RequestedProcedureID": _text(request.RequestedProcedureID)}
        return found


def has_pixels(data: bytes) -> bool:
    """Say whether the data set has pixels, of whatever kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return not PIXELS.isdisjoint(pydicom.dcmread(io.BytesIO(data), defer_size=1024).keys())


def _values(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for keyword, tag in TAGS.items():
        if keyword == PROCEDURE_CODES:
            if (code := _code(dataset)) is not None:
                yield keyword, code
            continue
        source: Any = dataset.file_meta if keyword == "TransferSyntaxUID" else dataset
        if tag in source:
            yield keyword, _text(source[tag].value)


def _code(dataset: Dataset) -> str | None:
    """Return the first code of Procedure Code Sequence."""
    for item in dataset.get(PROCEDURE_CODES) or ():
        if any(name in item for name in CODE):
            return "\\".join(_text(item.get(name)) for name in CODE)
    return None


def _text(value: object) -> str:
    """Return what pydicom made of a value as it was stored."""
    if isinstance(value, MultiValue):
        return "\\".join(_text(one).rstrip(" \0") for one in value)  # padding of each value (PS3.5 section 6.2)
    return value.original_string if isinstance(value, IS) else str("" if value is None else value)
