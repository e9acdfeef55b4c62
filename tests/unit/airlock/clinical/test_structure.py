"""The local structure check: what breaks R4's structure is found with its place, and another version is called so."""

from __future__ import annotations

import json
from typing import Any

import fhirkit
import pytest

from airlock.clinical.resources import RESOURCE_TYPES
from airlock.clinical.structure import OTHER_ELEMENTS, OTHER_TYPES, Finding, check
from airlock.reasons import Reason
from tests.unit.airlock.clinical.books import observation, organization, patient


def finding(resource: Any) -> Finding:
    found = check(resource if isinstance(resource, str) else json.dumps(resource))
    assert found is not None
    return found


def with_element(path: str) -> dict[str, Any]:
    """Return a resource that has this element and little else."""
    kind, *names = path.split(".")
    value: Any = "x"
    for name in reversed(names):
        value = {name: [value] if name == "series" else value}
    return {"resourceType": kind, "id": "a", **value}


@pytest.mark.parametrize("resource", [patient("p1"), observation("o1", "p1"), organization("g1")])
def test_what_keeps_to_the_structure_passes(resource: dict[str, Any]) -> None:
    assert check(json.dumps(resource)) is None


@pytest.mark.parametrize(
    ("resource", "place"),
    [
        (patient("p1", colour="blue"), "Patient.colour"),
        (patient("p1", birthDate="19500101"), "Patient.birthDate"),
        (patient("p1", active="true"), "Patient.active"),
        (patient("p1") | {"name": "Doe"}, "Patient.name"),
        (patient("p1") | {"name": {"family": "Doe"}}, "Patient.name"),
        (patient("p1") | {"name": []}, "Patient.name"),
        (observation("o1", "p1", code=None), "Observation.code"),
        (observation("o1", "p1", valueQuantity={"value": "heavy"}), "Observation.valueQuantity.value"),
        ({"resourceType": "Observation", "id": "o1", "status": "final"}, "Observation.code"),
    ],
)
def test_what_breaks_it_is_told_with_its_place(resource: dict[str, Any], place: str) -> None:
    found = finding(resource)
    assert found.reason == Reason.INVALID_RESOURCE
    assert found.detail.startswith(place)
    outcome = json.loads(found.outcome)
    assert (outcome["resourceType"], outcome["issue"][0]["severity"]) == ("OperationOutcome", "error")
    assert outcome["issue"][0]["expression"][0].startswith(place)


@pytest.mark.parametrize(
    ("resource", "said"),
    [
        (patient("p1", birthDate="1980-13-45"), "Patient.birthDate: the value is not a valid date"),
        (patient("p1", birthDate='19"\n80 is not'), "Patient.birthDate: the value is not a valid date"),
        (patient("p1", multipleBirthInteger=1.5), "Patient.multipleBirthInteger: the value is not a FHIR integer"),
        (
            patient("p1", multipleBirthInteger=2**40),
            "Patient.multipleBirthInteger: the value is outside the 32-bit range of a FHIR integer",
        ),
    ],
)
def test_no_value_is_told(resource: dict[str, Any], said: str) -> None:
    found = finding(resource)
    assert found.detail == said
    assert [issue["diagnostics"] for issue in json.loads(found.outcome)["issue"]] == [said.partition(": ")[2]]


@pytest.mark.parametrize("code", [*range(9), 11, 12, *range(14, 32)])
def test_a_control_character_in_a_text_is_told_with_its_place(code: int) -> None:
    found = finding(patient("p1") | {"name": [{"family": "A"}, {"family": "B", "given": [f"C{chr(code)}D"]}]})
    assert (found.reason, found.detail) == (
        Reason.CONTROL_CHARACTER,
        "Patient.name[1].given[0]: a control character below 32",
    )
    assert json.loads(found.outcome)["issue"][0]["expression"] == ["Patient.name[1].given[0]"]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(patient("p1") | {"name": [{"family": "tab\t CR\r LF\n DEL\x7f é \u2028 \\u0001 \\b \\\\f"}]}),
        '{"resourceType":"Patient","id":"p1","name":[{"family":"\\u0009\\u000a\\u000D \\\\u0001"}]}',
    ],
)
def test_tab_cr_and_lf_are_none_nor_is_what_only_looks_like_one(body: str) -> None:
    assert check(body) is None


def test_another_fault_is_told_first_and_the_outcome_has_both() -> None:
    found = finding(patient("p1") | {"birthDate": "19500101", "name": [{"family": "\x01"}]})
    assert found.reason == Reason.INVALID_RESOURCE
    assert len(json.loads(found.outcome)["issue"]) == 2


def test_bindings_targets_and_profiles_are_left_to_the_data_store() -> None:
    assert check(json.dumps(patient("p1", gender="M"))) is None
    assert check(json.dumps(observation("o1", "p1", subject={"reference": "Practitioner/p1"}))) is None


@pytest.mark.parametrize("path", OTHER_ELEMENTS)
def test_an_element_of_another_version_is_called_so(path: str) -> None:
    found = finding(with_element(path))
    assert found.reason == Reason.FHIR_VERSION
    assert found.detail.startswith(f"it has elements of {OTHER_ELEMENTS[path]}: ")


def test_it_is_called_so_within_a_list() -> None:
    series = [{"uid": "1.2", "modality": {"coding": [{"code": "CT"}]}}]
    study = {"resourceType": "ImagingStudy", "id": "i", "status": "available", "subject": {"reference": "Patient/p1"}}
    found = finding(study | {"series": series})
    assert (found.reason, found.detail.split(":")[0]) == (Reason.FHIR_VERSION, "it has elements of R5")


def test_types_of_other_versions_are_none_of_r4() -> None:
    assert not RESOURCE_TYPES & OTHER_TYPES.keys()
    assert set(OTHER_TYPES.values()) == set(OTHER_ELEMENTS.values()) == {"STU3", "R5"}


def test_an_outcome_is_not_endless() -> None:
    outcome = json.loads(finding(patient("p1", **{f"x{number}": 1 for number in range(500)})).outcome)
    assert 1 < len(outcome["issue"]) <= 20


@pytest.mark.parametrize("depth", [200, 50_000])
def test_a_resource_nested_deeply_is_a_finding_too(depth: int) -> None:
    text = '{"resourceType":"Patient","id":"a","extension":' + '[{"url":"a","extension":' * depth + "[]" + "}]" * depth
    assert finding(text + "}").reason == Reason.INVALID_RESOURCE


def test_the_library_knows_r4() -> None:
    assert {"Patient", "ImagingStudy", "EffectEvidenceSynthesis"} <= set(fhirkit.RESOURCE_TYPES)
