"""What promotion changes in the metadata; resolving itself is shown end to end in integration/test_redrive.py."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from airlock.records import OUTCOMES
from airlock.resolve import Resolved, carried_outcomes, changes


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


def outcome(name: str, image_set: str, outcome: str, reason: str | None) -> dict[str, Any]:
    warnings = ["SOME_WARNING"] if outcome == "imported_with_warning" else []
    row = {"arrival_id": name, "image_set_id": image_set, "image_set_version": 1, "outcome": outcome, "reason": reason}
    return row | {"warnings": warnings}


def test_of_an_earlier_outcome_only_the_fact_is_carried_on() -> None:
    rows = [
        outcome("warned", "i1", "imported_with_warning", "job_counts_disagree"),
        outcome("sound", "i1", "imported", "read_back_mismatch"),
        outcome("promoted", "i2", "non_primary", "non_primary"),
        outcome("deleted", "i3", "non_primary", "non_primary"),
        outcome("left", "i4", "non_primary", "version_above_one"),
    ]
    frame = pl.DataFrame([{name: row.get(name) for name in OUTCOMES} for row in rows], schema=OUTCOMES)
    found = carried_outcomes(frame, {"i2": Resolved("i5", 7), "i3": Resolved()})
    told = ("arrival_id", "outcome", "reason", "image_set_id", "image_set_version")
    assert found.select(told).rows() == [
        ("warned", "imported_with_warning", "service_warning", "i1", 1),
        ("sound", "imported", None, "i1", 1),
        ("promoted", "imported", None, "i5", 7),
        ("left", "non_primary", "non_primary", "i4", 1),
    ]
