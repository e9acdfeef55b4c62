"""What promotion changes in the metadata; resolving itself is shown end to end in integration/test_redrive.py."""

from __future__ import annotations

import json
from typing import Any

from airlock.resolve import changes


def document(series: str = "1.1", **elements: Any) -> dict[str, Any]:
    values = {"PatientID": "P", "StudyDate": "20260301", "AccessionNumber": "A", "StudyID": "1", "SeriesNumber": 1}
    values |= elements
    return {
        "Patient": {"DICOM": {"PatientID": values.pop("PatientID")}},
        "Study": {
            "Series": {series: {"DICOM": {"SeriesNumber": values.pop("SeriesNumber")}, "Instances": {}}},
            "DICOM": values,
        },
    }


def read(updates: dict[str, bytes]) -> dict[str, Any]:
    return {name: json.loads(body) for name, body in updates.items()}


def test_what_agrees_is_not_changed() -> None:
    assert changes(document(SeriesNumber="1"), [document(), document(StudyDate="20260301 ")]) == ({}, False)
    assert changes(document(PatientID="Q"), []) == ({}, False)


def test_only_what_differs_is_made_that_of_the_primary() -> None:
    updates, force = changes(document(PatientID="Q"), [document()])
    assert read(updates) == {"updatableAttributes": {"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientID": "P"}}}}
    assert not force


def test_study_id_needs_force() -> None:
    updates, force = changes(document(StudyID="9"), [document()])
    assert read(updates)["updatableAttributes"]["Study"] == {"DICOM": {"StudyID": "1"}}
    assert force


def test_what_the_primary_does_not_have_is_removed() -> None:
    updates, _ = changes(document(AccessionNumber="B"), [document(AccessionNumber="")])
    assert read(updates) == {"removableAttributes": {"SchemaVersion": 1.1, "Study": {"DICOM": {"AccessionNumber": ""}}}}


def test_a_series_number_is_that_of_the_same_series() -> None:
    others = [document(series="1.2", SeriesNumber=2), document(SeriesNumber=3)]
    updates, _ = changes(document(), others)
    assert read(updates)["updatableAttributes"]["Study"] == {"Series": {"1.1": {"DICOM": {"SeriesNumber": 3}}}}
