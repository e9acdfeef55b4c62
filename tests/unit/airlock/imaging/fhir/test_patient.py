"""One Patient per identity, merged over its studies."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from airlock.imaging.fhir.patient import build_patient
from tests.unit.airlock.imaging.fhir.studies import publishing, study

OLD = study(StudyInstanceUID="1.2.1", StudyDate="20200101", PatientName="Maiden^Jane")
NEW = study(StudyInstanceUID="1.2.2", StudyDate="20240101", PatientName="Doe^Jane")


def built(*studies: Any) -> dict[str, Any]:
    return build_patient(studies, publishing())


def test_a_patient_is_what_the_header_says() -> None:
    found = built(study())
    assert found.pop("id")
    assert found == {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:airlock:issuer:NORTH", "value": "P1"}],
        "name": [{"family": "Doe", "given": ["Jane"]}],
        "gender": "female",
        "birthDate": "1980-02-29",
    }


def test_what_is_not_known_is_left_out() -> None:
    empty = study(PatientID=None, PatientName="^^^^", PatientSex="U", PatientBirthDate="1980")
    assert set(built(empty)) == {"resourceType", "id"}


def test_the_newest_study_names_the_patient() -> None:
    assert built(OLD, NEW)["name"] == built(NEW, OLD)["name"] == [{"family": "Doe", "given": ["Jane"]}]


def test_a_newer_study_without_a_name_takes_none_away() -> None:
    nameless = NEW.model_copy(update={"PatientName": ""})
    assert built(OLD, nameless)["name"] == [{"family": "Maiden", "given": ["Jane"]}]


def test_the_newest_study_decides_a_contradiction() -> None:
    other = NEW.model_copy(update={"PatientBirthDate": "19800228", "PatientSex": "M"})
    found = built(OLD, other)
    assert (found["birthDate"], found["gender"]) == ("1980-02-28", "male")


def test_what_only_one_study_knows_is_no_contradiction() -> None:
    silent = NEW.model_copy(update={"PatientBirthDate": None, "PatientSex": "U"})
    found = built(OLD, silent)
    assert (found["birthDate"], found["gender"]) == ("1980-02-29", "female")


def test_the_order_of_the_studies_decides_nothing() -> None:
    same_moment = study(StudyInstanceUID="1.2.3", StudyDate="20240101", PatientName="Roe^Jane")
    assert len({str(built(*order)) for order in permutations((OLD, NEW, same_moment))}) == 1
