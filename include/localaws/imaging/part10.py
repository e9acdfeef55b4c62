"""One DICOM Part 10 file as an import job sees it: an instance, or the reason of its rejection."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread

from localaws.imaging.elements import UNREADABLE, Levels, read_levels
from localaws.imaging.pixels import Frames, read_frames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydicom.dataset import Dataset, FileDataset

GZIP_MAGIC = b"\x1f\x8b"
UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010
NOT_DICOM = "DICOM attributes does not exist"
IDENTIFYING = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
COUNTS = ("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances")
LARGEST_COUNT = 1_000_000
UID_FORM = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
"""A UID (PS3.5 section 9.1); its 64 characters are checked apart."""


class RejectedFileError(Exception):
    """A file is not imported.

    Parameters
    ----------
    message : str
        The text in failure.ndjson; names attributes, never values.
    """


@dataclass
class Instance:
    """The parts of one file that an import stores."""

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    levels: Levels
    pixels: Frames
    warnings: list[str]


def read_instance(body: bytes, length_limits: Mapping[str, int]) -> Instance:
    """Parse one file and check it as HealthImaging documents it.

    Parameters
    ----------
    body : bytes
        The whole object.
    length_limits : mapping
        Longest text per attribute.

    Raises
    ------
    RejectedFileError
        The file cannot be imported.
    """
    dataset = _parse(body)
    transfer_syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if not transfer_syntax:
        raise RejectedFileError("DICOM attribute TransferSyntaxUID does not exist")
    _check_whole(dataset)
    identifiers = {name: _identifier(dataset, name) for name in IDENTIFYING}
    _check_lengths(dataset, length_limits)
    levels = read_levels(dataset)
    pixels = read_frames(dataset, transfer_syntax)
    warnings = list(pixels.warnings)
    if levels.discarded:
        warnings.append("ELEMENTS_DISCARDED")
    if not all(len(uid) <= 64 and UID_FORM.fullmatch(uid) for uid in identifiers.values()):
        warnings.append("INVALID_UID_FORMAT")
    if str(dataset.file_meta.get("MediaStorageSOPClassUID", identifiers["SOPClassUID"])) != identifiers["SOPClassUID"]:
        warnings.append("SOP_CLASS_DATA_MISMATCH")
    return Instance(
        identifiers["SOPInstanceUID"],
        identifiers["StudyInstanceUID"],
        identifiers["SeriesInstanceUID"],
        levels,
        pixels,
        warnings,
    )


def _parse(body: bytes) -> FileDataset:
    if body[:2] == GZIP_MAGIC or body[128:132] != b"DICM":
        raise RejectedFileError(NOT_DICOM)
    try:
        dataset = dcmread(BytesIO(body))
    except (InvalidDicomError, *UNREADABLE) as error:
        raise RejectedFileError(NOT_DICOM) from error
    if not dataset:
        raise RejectedFileError(NOT_DICOM)
    return dataset


def _check_whole(dataset: Dataset) -> None:
    """Refuse a file that ends inside an element; the pixels are the exception, they cost a warning only."""
    for tag in dataset.keys():  # noqa: SIM118 - the raw elements are wanted, unconverted
        raw: Any = dataset.get_item(tag)
        if not isinstance(raw, RawDataElement) or raw.length == UNDEFINED_LENGTH or tag == PIXEL_DATA:
            continue
        if len(raw.value or b"") < raw.length:
            raise RejectedFileError("DICOM file is truncated")


def _text(dataset: Dataset, keyword: str) -> str:
    """Return an attribute's text as the file has it, without padding."""
    if keyword not in dataset:
        return ""
    try:
        value: Any = dataset[keyword].value
    except UNREADABLE:
        return ""
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, list | tuple) else str(value).strip(" \0")


def _identifier(dataset: Dataset, keyword: str) -> str:
    text = _text(dataset, keyword)
    if not text:
        raise RejectedFileError(f"DICOM attribute {keyword} does not exist")
    return text


def _check_lengths(dataset: Dataset, limits: Mapping[str, int]) -> None:
    for keyword, longest in limits.items():
        if len(_text(dataset, keyword)) > longest:
            raise RejectedFileError(f"DICOM attribute {keyword} is longer than {longest} characters")
    for keyword in COUNTS:
        text = _text(dataset, keyword)
        if text.isascii() and text.isdigit() and int(text) > LARGEST_COUNT:
            raise RejectedFileError(f"DICOM attribute {keyword} is larger than {LARGEST_COUNT}")
