"""The stub that stands for the order."""

from __future__ import annotations

from airlock.imaging.fhir.identifiers import patient_id
from airlock.imaging.fhir.service_request import build_service_request
from tests.unit.airlock.imaging.fhir.studies import publishing, study


def test_it_says_no_more_than_the_archive_knows() -> None:
    found = build_service_request(study(), publishing())
    assert found is not None
    assert (found["status"], found["intent"]) == ("unknown", "order")
    assert found["identifier"][0]["value"] == "A1"
    assert found["subject"] == {"reference": f"Patient/{patient_id(study(), publishing())}"}


def test_without_an_accession_number_there_is_none() -> None:
    assert build_service_request(study(AccessionNumber=""), publishing()) is None
