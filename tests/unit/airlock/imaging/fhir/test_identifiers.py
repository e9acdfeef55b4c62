"""Ids that are the same on every replay, and of one thing only."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airlock.imaging.fhir.identifiers import (
    accession_identifier,
    endpoint_id,
    imaging_study_id,
    issuer_system,
    patient_id,
    patient_identifier,
    service_request_id,
    uid_identifier,
)
from tests.unit.airlock.imaging.fhir.studies import publishing, study

DECLARED = publishing(issuer_systems={"": "urn:oid:1.2.999"})


def same_patient(one: dict[str, Any], other: dict[str, Any], settings: Any = None) -> bool:
    ids = [
        patient_id(study(StudyInstanceUID=f"1.2.{n}", **changes), settings or publishing())
        for n, changes in enumerate((one, other), 1)
    ]
    return ids[0] == ids[1]


class TestPatientId:
    def test_a_patient_is_issuer_and_number(self) -> None:
        assert same_patient({}, {"PatientName": "Other^Name", "StudyDate": "20200101", "PatientID": " P1 "})
        assert not same_patient({}, {"IssuerOfPatientID": "SOUTH"})
        assert not same_patient({}, {"PatientID": "P2"})

    def test_without_a_number_it_is_the_patient_of_the_study(self) -> None:
        for nothing in (None, "", "  "):
            assert not same_patient({"PatientID": nothing}, {"PatientID": nothing})
        assert patient_id(study(PatientID=None), publishing()) == patient_id(study(PatientID=""), publishing())

    def test_without_an_issuer_a_number_alone_joins_no_studies(self) -> None:
        assert not same_patient({"IssuerOfPatientID": None}, {"IssuerOfPatientID": None})

    def test_settings_may_say_whose_numbers_without_issuer_are(self) -> None:
        assert same_patient({"IssuerOfPatientID": None}, {"IssuerOfPatientID": " "}, DECLARED)
        assert not same_patient({"IssuerOfPatientID": None}, {"IssuerOfPatientID": "NORTH"}, DECLARED)

    @pytest.mark.parametrize("keyword", ["PatientID", "IssuerOfPatientID"])
    @pytest.mark.parametrize("damaged", ["\ufffd\ufffd7", "P\x1b", "a" * 2000])
    def test_what_could_not_be_read_joins_no_studies(self, keyword: str, damaged: str) -> None:
        assert not same_patient({keyword: damaged}, {keyword: damaged}, DECLARED)

    @given(st.lists(st.tuples(st.text(), st.text()), min_size=2, max_size=2, unique=True))
    def test_no_two_identities_share_an_id(self, identities: list[tuple[str, str]]) -> None:
        (one, other) = [{"IssuerOfPatientID": issuer, "PatientID": number} for issuer, number in identities]
        assume({key: value.strip(" ") for key, value in one.items()} != {k: v.strip(" ") for k, v in other.items()})
        assert not same_patient(one, other)

    def test_it_is_a_legal_id_and_tells_nothing(self) -> None:
        found = patient_id(study(), publishing())
        assert re.fullmatch(r"[0-9a-f]{32}", found)
        assert "P1" not in found


class TestOtherIds:
    def test_an_imaging_study_is_its_study_uid_wherever_it_lies(self) -> None:
        assert imaging_study_id(study()) == imaging_study_id(study(datastore_id="f" * 32, PatientID="other"))
        assert imaging_study_id(study()) != imaging_study_id(study(StudyInstanceUID="1.2.2"))

    def test_an_endpoint_is_of_a_store_a_study_and_an_image_set(self) -> None:
        found = {
            endpoint_id(one, image_set)
            for one in (study(), study(datastore_id="f" * 32), study(StudyInstanceUID="1.2.2"))
            for image_set in (None, "a" * 32, "b" * 32)
        }
        assert len(found) == 9

    def test_an_order_is_an_accession_number_of_a_patient(self) -> None:
        one = service_request_id(study(), publishing())
        assert one == service_request_id(study(StudyInstanceUID="1.2.2"), publishing())
        assert one != service_request_id(study(AccessionNumber="A2"), publishing())
        assert one != service_request_id(study(IssuerOfPatientID="SOUTH"), publishing())
        assert service_request_id(study(AccessionNumber=" "), publishing()) is None

    def test_ids_do_not_change(self) -> None:
        """They are the keys of what is stored: another value here makes new resources of all that was published."""
        settings = publishing()
        assert patient_id(study(), settings) == "a32ccdeef2fd88d93302c9f1d4c0783e"
        assert patient_id(study(PatientID=None), settings) == "d8c28cdc0cf185a2a617293f148bfc60"
        assert imaging_study_id(study()) == "de29c58ab61070ced262e231ca376495"
        assert endpoint_id(study()) == "b9ff825691d0ff6890f0ef5c14f7d1aa"
        assert endpoint_id(study(), "a" * 32) == "73d7ab59bb35617b52cdbf6ccdf5ac2a"
        assert service_request_id(study(), settings) == "364f5273b8c70f2e0c2e3ec80a915e15"


class TestSystems:
    @pytest.mark.parametrize(
        ("issuer", "system"),
        [
            ("NORTH", "urn:airlock:issuer:NORTH"),
            ("St. Ann's/Ä", "urn:airlock:issuer:St.%20Ann%27s%2F%C3%84"),
            ("1.2.276.0.76", "urn:oid:1.2.276.0.76"),
            ("SOUTH", "https://south.example/mrn"),
        ],
    )
    def test_an_issuer_has_a_uri(self, issuer: str, system: str) -> None:
        assert issuer_system(issuer, publishing(issuer_systems={"SOUTH": "https://south.example/mrn"})) == system

    def test_a_patient_id_is_its_issuers(self) -> None:
        assert patient_identifier(study(), publishing()) == {"system": "urn:airlock:issuer:NORTH", "value": "P1"}

    def test_without_an_issuer_it_has_the_declared_system_or_none(self) -> None:
        of_nobody = study(IssuerOfPatientID=None)
        assert patient_identifier(of_nobody, publishing()) == {"value": "P1"}
        assert patient_identifier(of_nobody, DECLARED) == {"system": "urn:oid:1.2.999", "value": "P1"}
        assert patient_identifier(study(IssuerOfPatientID="\ufffd"), DECLARED) == {"value": "P1"}

    def test_a_uid_is_an_oid_where_it_can_be(self) -> None:
        assert uid_identifier("1.2.3") == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}
        assert uid_identifier("1.2.03") == {"system": "urn:dicom:uid", "value": "1.2.03"}
        assert uid_identifier("1.2\x01") is None

    def test_an_accession_number_says_that_it_is_one(self) -> None:
        found = accession_identifier(study())
        assert found is not None
        assert (found["type"]["coding"][0]["code"], found["value"]) == ("ACSN", "A1")
        assert accession_identifier(study(AccessionNumber="")) is None
