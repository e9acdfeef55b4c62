"""Small Part 10 files for deliveries: one CT slice, with attributes changed or removed by keyword."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.10.1580"
SIDE = 16  # pixels; the least that a reader takes for an image


def study_uid(study: int) -> str:
    """Return the StudyInstanceUID of a study of these files."""
    return f"{ROOT}.{study}"


def sop_uid(study: int, series: int, instance: int) -> str:
    """Return the SOPInstanceUID of one of these files."""
    return f"{ROOT}.{study}.{series}.{instance}"


def ct(study: int = 1, series: int = 1, instance: int = 1, pixel: int = 0, **changes: Any) -> bytes:
    """Return one slice; ``pixel`` tells contents apart, a changed value of None removes the attribute."""
    uid = changes.get("SOPInstanceUID") or sop_uid(study, series, instance)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    attributes = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": study_uid(study),
        "SeriesInstanceUID": f"{study_uid(study)}.{series}",
        "PatientID": f"PID-{study}",
        "PatientName": f"Test^Number{study}",
        "IssuerOfPatientID": "SITE-A",
        "StudyDate": "20260301",
        "StudyTime": "101500",
        "StudyID": str(study),
        "AccessionNumber": f"ACC-{study}",
        "Modality": "CT",
        "SeriesNumber": series,
        "InstanceNumber": instance,
        "Rows": SIDE,
        "Columns": SIDE,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixel.to_bytes(2, "little") * SIDE * SIDE,
    }
    for keyword, value in (attributes | changes).items():
        if value is not None:
            setattr(ds, keyword, value)
    out = BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def delivery(studies: int = 2, instances: int = 3) -> dict[str, bytes]:
    """Return a clean delivery: file contents by name, one series per study."""
    return {
        f"study-{study}/{instance:03}.dcm": ct(study, 1, instance)
        for study in range(1, studies + 1)
        for instance in range(1, instances + 1)
    }
