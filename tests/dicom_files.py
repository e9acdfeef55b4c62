"""Small Part 10 files for deliveries: one CT slice, with attributes changed or removed by keyword."""

from __future__ import annotations

from typing import Any

from airlock_local.sample.part10 import SLICE_SIDE, make_ct_slice

ROOT = "1.2.826.0.1.3680043.10.1580"


def study_uid(study: int) -> str:
    """Return the StudyInstanceUID of a study of these files."""
    return f"{ROOT}.{study}"


def sop_uid(study: int, series: int, instance: int) -> str:
    """Return the SOPInstanceUID of one of these files."""
    return f"{ROOT}.{study}.{series}.{instance}"


def ct(study: int = 1, series: int = 1, instance: int = 1, pixel: int = 0, **changes: Any) -> bytes:
    """Return one slice; ``pixel`` tells contents apart, a changed value of None removes the attribute."""
    attributes = {
        "SOPInstanceUID": sop_uid(study, series, instance),
        "StudyInstanceUID": study_uid(study),
        "SeriesInstanceUID": f"{study_uid(study)}.{series}",
        "PatientID": f"PID-{study}",
        "PatientName": f"Test^Number{study}",
        "IssuerOfPatientID": "SITE-A",
        "StudyID": str(study),
        "AccessionNumber": f"ACC-{study}",
        "SeriesNumber": series,
        "InstanceNumber": instance,
        "PixelData": pixel.to_bytes(2, "little") * SLICE_SIDE * SLICE_SIDE,
    }
    return make_ct_slice(**(attributes | changes))


def delivery(studies: int = 2, instances: int = 3) -> dict[str, bytes]:
    """Return a clean delivery: file contents by name, one series per study."""
    return {
        f"study-{study}/{instance:03}.dcm": ct(study, 1, instance)
        for study in range(1, studies + 1)
        for instance in range(1, instances + 1)
    }
