"""The files that a media directory (DICOMDIR, PS3.3 annex F) names, with their studies."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from pydicom.filereader import dcmread
from pydicom.multival import MultiValue

from airlock.dicom.header import MIB, quiet_pydicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MOST_BYTES = 16 * MIB  # of a directory; one of a CD with 10,000 images has about 5 MiB


def read_directory(content: bytes) -> dict[str, str]:
    """Return the StudyInstanceUID of each file that a directory names, by the file's path in lower case.

    Paths are relative to the directory's folder. A directory that cannot be read names no file.
    """
    try:
        with quiet_pydicom():
            return _find_files(dcmread(BytesIO(content), force=True))
    except Exception:  # noqa: BLE001  (pydicom raises almost any class on a hostile file; it then names nothing)
        return {}


def _find_files(directory: Dataset) -> dict[str, str]:
    """Follow the records from the root by their offsets; each is visited once, however they point at each other."""
    records = {record.seq_item_tell: record for record in directory.get("DirectoryRecordSequence", [])}
    first = directory.get("OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity")
    waiting: list[tuple[int | None, str]] = [(first, "")]
    found: dict[str, str] = {}
    while waiting:
        offset, study = waiting.pop()
        record = records.pop(offset, None)
        if record is None:
            continue
        waiting.append((record.get("OffsetOfTheNextDirectoryRecord"), study))
        study = str(record.get("StudyInstanceUID") or study)
        waiting.append((record.get("OffsetOfReferencedLowerLevelDirectoryEntity"), study))
        path = _read_path(record)
        if path and study:
            found[path] = study
    return found


def _read_path(record: Dataset) -> str:
    """Return the path of the file that a record names, "" if it names none; its folders are several values."""
    named = record.get("ReferencedFileID") or ""
    parts = named if isinstance(named, MultiValue) else [named]
    return "/".join(str(part) for part in parts).lower()
