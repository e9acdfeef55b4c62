"""Conformance to profiles."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from localaws.fhir.items import resource_item
from localaws.fhir.profile_nodes import Allowed, Discriminator, Node, Profile
from localaws.fhir.profiles import Conformance, conformance, knows
from localaws.fhir.structure import Walk
from tests.oracles.harmless import US_CORE, VITALS, blood_pressure, body_weight, us_core_patient

if TYPE_CHECKING:
    from localaws.fhir import Issue

PRESSURE = f"{US_CORE}us-core-blood-pressure"
PATIENT = f"{US_CORE}us-core-patient"


def checked(resource: dict[str, Any], canonical: str) -> list[Issue]:
    walk = Walk()
    walk.start(resource)
    return list(conformance(canonical, walk.scopes[0]))


def found(resource: dict[str, Any], canonical: str) -> list[tuple[str, str]]:
    return [(issue.code, issue.location[0]) for issue in checked(resource, canonical)]


def components(**changes: Any) -> list[dict[str, Any]]:
    systolic, diastolic = copy.deepcopy(blood_pressure()["component"])
    changed = diastolic | changes
    return [systolic, {name: value for name, value in changed.items() if value is not None}]


def test_what_conforms() -> None:
    assert found(blood_pressure(), PRESSURE) == []
    assert found(us_core_patient(), PATIENT) == []
    assert found(body_weight(), f"{VITALS}bodyweight") == []


@pytest.mark.parametrize(
    ("changes", "issues"),
    [
        ({"name": None}, [("invariant", "Patient"), ("required", "Patient.name")]),
        ({"name": [{"text": "x"}]}, [("invariant", "Patient")]),
        ({"gender": None}, [("required", "Patient.gender")]),
        ({"identifier": [{"value": "1"}]}, [("required", "Patient.identifier[0].system")]),
    ],
)
def test_what_a_patient_of_us_core_lacks(changes: dict[str, Any], issues: list[tuple[str, str]]) -> None:
    assert found(us_core_patient(**changes), PATIENT) == issues


def test_an_extension_is_told_by_its_url_and_checked_against_its_own_profile() -> None:
    text = {"url": "text", "valueString": "x"}

    def race(*parts: dict[str, Any]) -> list[tuple[str, str]]:
        extension = [{"url": f"{US_CORE}us-core-race", "extension": list(parts)}]
        return found(us_core_patient(extension=extension), PATIENT)

    assert race(text) == []
    assert race({"url": "detailed", "valueCoding": {"code": "x"}}) == [("required", "Patient.extension[0].extension")]
    assert race(text, {"url": "detailed", "valueString": "x"}) == [
        ("structure", "Patient.extension[0].extension[1].valueString")
    ]
    assert race(text, text) == [("structure", "Patient.extension[0].extension")]


@pytest.mark.parametrize(
    ("changes", "issues"),
    [
        ({"category": None}, [("required", "Observation.category")]),
        ({"category": [{"text": "x"}]}, [("required", "Observation.category")]),
        ({"code": {"text": "x"}}, [("value", "Observation.code")]),
        ({"subject": {"reference": "Group/1"}}, [("value", "Observation.subject.reference")]),
        (
            {"component": components()[:1]},
            [("required", "Observation.component"), ("required", "Observation.component")],
        ),
        ({"component": [*components(), components()[0]]}, [("structure", "Observation.component")]),
        (
            {"component": components(valueQuantity=None, valueString="x")},
            [("structure", "Observation.component[1].valueString")],
        ),
        (
            {
                "component": components(
                    valueQuantity={"value": 1, "unit": "kPa", "system": "http://x.example", "code": "kPa"}
                )
            },
            [
                ("value", "Observation.component[1].valueQuantity.code"),
                ("value", "Observation.component[1].valueQuantity.system"),
            ],
        ),
    ],
)
def test_what_a_blood_pressure_lacks(changes: dict[str, Any], issues: list[tuple[str, str]]) -> None:
    assert found(blood_pressure(**changes), PRESSURE) == issues


def test_the_profile_is_named() -> None:
    (issue,) = checked(us_core_patient(gender=None), PATIENT)
    assert PATIENT in issue.diagnostics


def test_a_profile_of_another_type() -> None:
    assert found(us_core_patient(), PRESSURE) == [("structure", "Patient")]
    assert found(us_core_patient(), "http://hl7.org/fhir/StructureDefinition/Observation") == [("structure", "Patient")]


@pytest.mark.parametrize(
    ("canonical", "known"),
    [
        (PATIENT, True),
        (f"{PATIENT}|5.0.1", True),
        (f"{PATIENT}|3.1.1", False),
        (f"{VITALS}bodyweight", True),
        (f"{VITALS}Patient", True),
        (f"{VITALS}Patient|4.0.1", True),
        (f"{VITALS}Patient|5.0.0", False),
        (f"{VITALS}HumanName", False),
        ("http://x.example/StructureDefinition/x", False),
        ("", False),
    ],
)
def test_which_profiles_are_known(canonical: str, known: bool) -> None:
    assert knows(canonical) is known


def test_an_unknown_profile_is_an_error_and_one_of_us_core_a_warning() -> None:
    def severity(canonical: str) -> str:
        (issue,) = checked(us_core_patient(), canonical)
        return issue.severity

    assert severity("http://x.example/StructureDefinition/x") == "error"
    assert severity(f"{US_CORE}us-core-condition") == "warning"
    assert severity(f"{PATIENT}|3.1.1") == "warning"


def problems(root: Node, **elements: Any) -> list[tuple[str, str]]:
    resource = {"resourceType": "Patient", **elements}
    walk = Walk()
    walk.start(resource)
    profile = Profile("Patient", "1", root)
    issues = Conformance(walk.scopes[0]).problems(profile.root, resource_item(resource, "Patient"))
    return [(issue.code, issue.location[0]) for issue in issues]


USES = Node(
    discriminators=(Discriminator("value", "use"),),
    closed=True,
    slices={"official": Node(minimum=1, maximum=1, children={"use": Node(fixed="official")})},
)


def test_a_closed_slicing_allows_no_others() -> None:
    root = Node(children={"name": USES})
    official, other = {"use": "official"}, {"use": "nickname"}
    assert problems(root, name=[official]) == []
    assert problems(root, name=[official, other]) == [("structure", "Patient.name[1]")]
    assert problems(root, name=[other]) == [("required", "Patient.name"), ("structure", "Patient.name[0]")]
    assert problems(root) == [("required", "Patient.name")]


def test_slices_told_by_presence() -> None:
    by_presence = Node(
        discriminators=(Discriminator("exists", "family"),),
        slices={
            "family": Node(maximum=1, children={"family": Node(minimum=1)}),
            "none": Node(maximum=1, children={"family": Node(maximum=0)}),
        },
    )
    root = Node(children={"name": by_presence})
    with_family, without = {"family": "x"}, {"text": "y"}
    assert problems(root, name=[with_family, without]) == []
    assert problems(root, name=[with_family, with_family]) == [("structure", "Patient.name")]
    assert problems(root, name=[without, without]) == [("structure", "Patient.name")]


def test_slices_told_by_type() -> None:
    quantity = Node(types=(Allowed("Quantity", (), ()),), children={"unit": Node(minimum=1)})
    by_type = Node(discriminators=(Discriminator("type", "$this"),), slices={"valueQuantity": quantity})
    root = Node(children={"extension": Node(children={"value[x]": by_type})})

    def value(**given: Any) -> list[tuple[str, str]]:
        return problems(root, extension=[{"url": "http://x.example", **given}])

    assert value(valueString="x") == []
    assert value(valueQuantity={"value": 1, "unit": "kg"}) == []
    assert value(valueQuantity={"value": 1}) == [("required", "Patient.extension[0].valueQuantity.unit")]


def test_a_slice_that_cannot_be_told_is_left_alone() -> None:
    by_profile = Node(discriminators=(Discriminator("profile", "resolve()"),), slices={"x": Node(minimum=1)})
    assert problems(Node(children={"generalPractitioner": by_profile})) == []


def test_any_json_in_place_of_an_element_does_no_harm() -> None:
    for value in (None, 5, "x", [], {}, [None, 5, []]):
        for name in ("category", "component", "code", "meta", "subject", "extension"):
            checked(blood_pressure() | {name: value}, PRESSURE)
