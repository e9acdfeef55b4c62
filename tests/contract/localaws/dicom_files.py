"""DICOM Part 10 files with new identifiers, made on the spot."""

from __future__ import annotations

from typing import Any

from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from airlock_local.sample.part10 import SLICE_SIDE, make_ct_slice

PREFIX = "1.2.826.0.1.3680043.10.1579."


def new_uid() -> str:
    return str(generate_uid(prefix=PREFIX))


def part10(transfer_syntax: str = ExplicitVRLittleEndian, /, **changes: Any) -> bytes:
    """Return one CT slice; `changes` set attributes by keyword, None removes one."""
    values: dict[str, Any] = {
        "SOPInstanceUID": new_uid(),
        "StudyInstanceUID": new_uid(),
        "SeriesInstanceUID": new_uid(),
        "PatientID": "PAT-1",
        "PatientName": "Contract^Test",
        "PatientBirthDate": "19500101",
        "PatientSex": "O",
        "StudyID": "7",
        "AccessionNumber": "ACC-1",
        "StudyDescription": "CT CHEST",
        "SeriesDescription": "AXIAL",
        "BodyPartExamined": "CHEST",
        "PixelData": bytes(range(256)) * (SLICE_SIDE * SLICE_SIDE * 2 // 256),
    }
    return make_ct_slice(transfer_syntax, **{**values, **changes})


def series(count: int, **changes: Any) -> list[bytes]:
    """Return the files of one series, with study and series UID in common."""
    common = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid(), **changes}
    return [part10(InstanceNumber=number, **common) for number in range(1, count + 1)]
