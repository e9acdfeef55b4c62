"""The walk along the base definitions: one issue per fault, at its place."""

from __future__ import annotations

from typing import Any

import pytest

from localaws.fhir.structure import DEEPEST, MOST_ISSUES, Walk

PATIENT: dict[str, Any] = {"resourceType": "Patient", "id": "p1"}
ABSENT = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}


def issues(resource: dict[str, Any]) -> list[tuple[str, str]]:
    walk = Walk()
    walk.start(resource)
    return [(issue.code, issue.location[0]) for issue in walk.issues]


def patient(**elements: Any) -> list[tuple[str, str]]:
    return issues(PATIENT | elements)


def observation(**elements: Any) -> list[tuple[str, str]]:
    return issues({"resourceType": "Observation", "status": "final", "code": {"text": "x"}} | elements)


@pytest.mark.parametrize(
    ("elements", "code", "location"),
    [
        ({"colour": "blue"}, "structure", "Patient.colour"),
        ({"name": [{"colour": "blue"}]}, "structure", "Patient.name[0].colour"),
        ({"name": {"text": "x"}}, "structure", "Patient.name"),
        ({"name": "x"}, "structure", "Patient.name"),
        ({"name": ["x"]}, "structure", "Patient.name[0]"),
        ({"name": [None]}, "structure", "Patient.name[0]"),
        ({"name": []}, "structure", "Patient.name"),
        ({"name": None}, "structure", "Patient.name"),
        ({"name": [{}]}, "structure", "Patient.name[0]"),
        ({"name": [{"id": "x"}]}, "structure", "Patient.name[0]"),
        ({"name": [{"given": ["", "x"]}]}, "value", "Patient.name[0].given[0]"),
        ({"gender": ["male"]}, "structure", "Patient.gender"),
        ({"gender": None}, "structure", "Patient.gender"),
        ({"gender": "M"}, "code-invalid", "Patient.gender"),
        ({"gender": 5}, "value", "Patient.gender"),
        ({"gender": {"coding": []}}, "value", "Patient.gender"),
        ({"birthDate": "2024-13-45"}, "value", "Patient.birthDate"),
        ({"_birthDate": {}}, "structure", "Patient.birthDate"),
        ({"_birthDate": [ABSENT]}, "structure", "Patient.birthDate"),
        ({"_birthDate": {"colour": 1}}, "structure", "Patient.birthDate.colour"),
        ({"_name": [{}]}, "structure", "Patient._name"),
        ({"communication": [{"preferred": True}]}, "required", "Patient.communication[0].language"),
        ({"deceasedBoolean": False, "deceasedDateTime": "2024"}, "structure", "Patient.deceasedDateTime"),
        ({"deceasedString": "no"}, "structure", "Patient.deceasedString"),
        ({"value[x]": "no"}, "structure", "Patient"),
        ({"managingOrganization": {"reference": "Patient/1"}}, "value", "Patient.managingOrganization.reference"),
        ({"contained": [{"resourceType": "Nonsense"}]}, "structure", "Patient.contained[0]"),
        ({"contained": ["x"]}, "structure", "Patient.contained[0]"),
        ({"contained": [PATIENT | {"colour": 1}]}, "structure", "Patient.contained[0].colour"),
        ({"extension": [{"valueString": "x"}]}, "required", "Patient.extension[0].url"),
        (
            {"extension": [{"url": "http://x.example", "valueNonsense": "x"}]},
            "structure",
            "Patient.extension[0].valueNonsense",
        ),
    ],
)
def test_a_fault_is_one_issue_at_its_place(elements: dict[str, Any], code: str, location: str) -> None:
    assert patient(**elements) == [(code, location)]


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"birthDate": "1970", "_birthDate": ABSENT},
        {"_birthDate": ABSENT},
        {"birthDate": "1970", "_birthDate": {"id": "x"}},
        {"name": [{"given": ["J", None], "_given": [None, ABSENT]}]},
        {"name": [{"given": ["J", "K"], "_given": [ABSENT]}]},
        {"managingOrganization": {"display": "somewhere"}},
        {"modifierExtension": [{"url": "http://x.example", "valueBoolean": True}]},
        {"extension": [{"url": "http://x.example", "extension": [{"url": "y", "valueAge": {"value": 1}}]}]},
        {"contained": [{"resourceType": "Organization", "id": "in"}], "managingOrganization": {"reference": "#in"}},
    ],
)
def test_what_fhir_allows_is_no_fault(elements: dict[str, Any]) -> None:
    assert patient(**elements) == []


def test_a_quantity_of_a_simple_quantity_has_no_comparator() -> None:
    low = {"value": 1, "comparator": "<"}
    assert observation(valueQuantity=low) == []
    assert observation(referenceRange=[{"low": low}]) == [("structure", "Observation.referenceRange[0].low.comparator")]


def test_an_element_defined_elsewhere_is_checked_there() -> None:
    """Observation.component.referenceRange is a reference to the content of Observation.referenceRange."""
    component = {"code": {"text": "x"}, "referenceRange": [{"colour": 1}]}
    assert observation(component=[component]) == [("structure", "Observation.component[0].referenceRange[0].colour")]


def test_a_bundle_knows_what_its_entries_lead_to() -> None:
    uuid = "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"
    study = {"resourceType": "ImagingStudy", "status": "available", "subject": {"reference": uuid}}

    def bundle(kind: str) -> list[tuple[str, str]]:
        entry = [{"fullUrl": uuid, "resource": {"resourceType": kind}}, {"resource": study}]
        return issues({"resourceType": "Bundle", "type": "collection", "entry": entry})

    assert bundle("Patient") == []
    assert bundle("Organization") == [("value", "Bundle.entry[1].resource.subject.reference")]


def test_the_resources_met_are_kept_with_their_container() -> None:
    inside = {"resourceType": "Organization", "id": "in"}
    resource = PATIENT | {"contained": [inside]}
    walk = Walk()
    walk.start({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": resource}]})
    found = [(scope.location, scope.root["resourceType"], scope.sound) for scope in walk.scopes]
    assert found == [
        ("Bundle", "Bundle", True),
        ("Bundle.entry[0].resource", "Patient", True),
        ("Bundle.entry[0].resource.contained[0]", "Patient", True),
    ]


def test_a_name_that_is_none_is_not_told() -> None:
    walk = Walk()
    walk.start(PATIENT | {"Jane Doe, 1970-01-02": 1})
    (issue,) = walk.issues
    assert "Jane" not in issue.diagnostics + issue.location[0]


def test_the_walk_ends_in_time() -> None:
    many = patient(**{f"x{number}": 1 for number in range(10_000)})
    assert len(many) == MOST_ISSUES + 1
    assert many[-1] == ("too-costly", "Patient")
    extension: dict[str, Any] = {"url": "http://x.example", "valueString": "x"}
    for _ in range(DEEPEST + 1):
        extension = {"url": "http://x.example", "extension": [extension]}
    assert patient(extension=[extension]) == [("too-costly", "Patient")]
