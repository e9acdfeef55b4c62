"""DICOM Part 10 files, made on the spot."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

PREFIX = "1.2.826.0.1.3680043.10.1579."
SIDE = 16


def new_uid() -> str:
    return str(generate_uid(prefix=PREFIX))


def part10(transfer_syntax: str = ExplicitVRLittleEndian, /, **changes: Any) -> bytes:
    """Return one CT slice; `changes` set attributes by keyword, None removes one."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = UID(transfer_syntax)
    dataset = FileDataset(BytesIO(), {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": new_uid(),
        "StudyInstanceUID": new_uid(),
        "SeriesInstanceUID": new_uid(),
        "PatientID": "PAT-1",
        "PatientName": "Contract^Test",
        "PatientBirthDate": "19500101",
        "PatientSex": "O",
        "StudyDate": "20260301",
        "StudyTime": "101500",
        "StudyID": "7",
        "AccessionNumber": "ACC-1",
        "StudyDescription": "CT CHEST",
        "SeriesDescription": "AXIAL",
        "Modality": "CT",
        "BodyPartExamined": "CHEST",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "Rows": SIDE,
        "Columns": SIDE,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": bytes(range(256)) * (SIDE * SIDE * 2 // 256),
    }
    for keyword, value in {**values, **changes}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", new_uid())
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def series(count: int, **changes: Any) -> list[bytes]:
    """Return the files of one series, with study and series UID in common."""
    common = {"StudyInstanceUID": new_uid(), "SeriesInstanceUID": new_uid(), **changes}
    return [part10(InstanceNumber=number, **common) for number in range(1, count + 1)]
