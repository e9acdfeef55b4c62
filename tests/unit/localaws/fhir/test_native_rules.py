"""Invariants in Python: they say what fhirpathpy says of the published expressions."""

from __future__ import annotations

from typing import Any

import fhirpathpy
import pytest
from fhirpathpy.engine.nodes import ResourceNode
from fhirpathpy.models import models

from localaws.fhir import native_rules
from localaws.fhir.invariants import OPTIONS
from localaws.fhir.native_rules import BY_EXPRESSION, BY_KEY, are_in_order
from localaws.fhir.schema import schema
from localaws.fhir.structure import Walk

INSIDE: dict[str, Any] = {"resourceType": "Organization", "id": "in", "name": "Inside"}
TO_IT = {"reference": "#in"}
RULES = {key: [rule for rule in schema().rules if rule.key == key] for key in BY_KEY}


def patient(contained: dict[str, Any], **elements: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": "p1", "contained": [contained], **elements}


RESOURCES = {
    "nothing contained": {"resourceType": "Patient", "id": "p1"},
    "contained and used": patient(INSIDE, managingOrganization=TO_IT),
    "contained and not used": patient(INSIDE),
    "used by itself only": patient(INSIDE | {"partOf": TO_IT}),
    "contained in contained": patient(INSIDE | {"contained": [INSIDE]}, managingOrganization=TO_IT),
    "with a version": patient(INSIDE | {"meta": {"versionId": "1"}}, managingOrganization=TO_IT),
    "with a time": patient(INSIDE | {"meta": {"lastUpdated": "2024-01-01T00:00:00Z"}}, managingOrganization=TO_IT),
    "with a label": patient(INSIDE | {"meta": {"security": [{"code": "R"}]}}, managingOrganization=TO_IT),
    "with other metadata": patient(INSIDE | {"meta": {"tag": [{"code": "R"}]}}, managingOrganization=TO_IT),
    "without an id": patient({"resourceType": "Organization", "name": "Inside"}),
    "a dangling reference": {"resourceType": "Patient", "managingOrganization": {"reference": "#nowhere"}},
    "a reference to elsewhere": {"resourceType": "Patient", "managingOrganization": {"reference": "Organization/1"}},
}
EXTENSIONS: list[dict[str, Any]] = [
    {"url": "x"},
    {"url": "x", "valueString": "y"},
    {"url": "x", "valueBoolean": False},
    {"url": "x", "extension": [{"url": "y", "valueString": "z"}]},
    {"url": "x", "valueString": "y", "extension": [{"url": "y", "valueString": "z"}]},
]


def published(key: str, value: Any, definition: str, resource: Any, root: Any) -> bool:
    (rule,) = RULES[key]
    evaluate = fhirpathpy.compile(rule.expression, models["r4"], OPTIONS)
    node = ResourceNode(value, definition)
    return evaluate(node, {"resource": resource, "rootResource": root}) != [False]


def native(walk: Walk, key: str) -> list[bool]:
    return [
        BY_KEY[key](place.value, scope)
        for scope in walk.scopes
        for place in scope.ruled
        if key in {rule.key for rule in place.rules}
    ]


def by_fhirpath(walk: Walk, key: str) -> list[bool]:
    return [
        published(key, place.value, place.definition, scope.resource, scope.root)
        for scope in walk.scopes
        for place in scope.ruled
        if key in {rule.key for rule in place.rules}
    ]


@pytest.mark.parametrize("key", BY_KEY)
def test_each_key_is_one_rule(key: str) -> None:
    assert len(RULES[key]) == 1


def test_each_expression_is_one_of_the_specification() -> None:
    assert BY_EXPRESSION.keys() <= {rule.expression for rule in schema().rules}


def test_no_other_expression_compares_times() -> None:
    """Those that compare counts and numbers are fhirpathpy's; a new one has to be looked at."""
    numbers = {"age-1", "eld-2", "eld-3", "md-1", "ras-2", "tim-4", "tim-5", "vs-1"}
    comparing = {
        rule.key
        for rule in schema().rules
        if ({"<", ">"} & set(rule.expression)) and "count()" not in rule.expression and not native_rules.native(rule)
    }
    assert comparing == numbers


@pytest.mark.parametrize("key", ["dom-2", "dom-4", "dom-5", "ref-1"])
@pytest.mark.parametrize("name", RESOURCES)
def test_as_fhirpathpy_says(key: str, name: str) -> None:
    walk = Walk()
    walk.start(RESOURCES[name])
    assert native(walk, key) == by_fhirpath(walk, key)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_ext_1_as_fhirpathpy_says(extension: dict[str, Any]) -> None:
    walk = Walk()
    walk.start({"resourceType": "Patient", "extension": [extension]})
    assert native(walk, "ext-1") == by_fhirpath(walk, "ext-1")


HEART, BREATH = ({"system": "http://loinc.org", "code": code} for code in ("8867-4", "9279-1"))
EMPTY: dict[str, Any] = {"extension": [{"url": "x", "valueString": "y"}]}
QUANTITY = {"value": 70, "system": "http://unitsofmeasure.org", "code": "/min"}


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"valueQuantity": QUANTITY},
        {"valueQuantity": {"value": 70, "code": "/min"}},
        {"valueQuantity": {"value": 70, "_code": EMPTY}},
        {"valueQuantity": {"value": 70, "code": "/min", "_system": EMPTY}},
        {"valueBoolean": False, "dataAbsentReason": {"text": "asleep"}},
        {"_valueString": EMPTY, "dataAbsentReason": {"text": "asleep"}},
        {"dataAbsentReason": {"text": "asleep"}},
        {"valueString": "x", "component": [{"code": {"coding": [HEART]}}]},
        {"valueString": "x", "component": [{"code": {"coding": [BREATH]}}, {"code": {"text": "none"}}]},
        {"valueString": "x", "component": [{"code": {"coding": [BREATH, {**HEART, "display": "Heart rate"}]}}]},
        {"component": [{"code": {"coding": [HEART]}}]},
    ],
)
def test_an_observation_as_fhirpathpy_says(elements: dict[str, Any]) -> None:
    walk = Walk()
    walk.start({"resourceType": "Observation", "status": "final", "code": {"coding": [HEART]}, **elements})
    assert walk.scopes[0].sound
    for key in ("qty-3", "obs-6", "obs-7"):
        assert native(walk, key) == by_fhirpath(walk, key)


@pytest.mark.parametrize(
    ("asks", "kept"),
    [
        ({"operator": "exists", "answerBoolean": False}, True),
        ({"operator": "exists", "answerInteger": 1}, False),
        ({"operator": "=", "answerInteger": 1}, True),
    ],
)
def test_que_7_an_answer_exists_or_not(asks: dict[str, Any], kept: bool) -> None:
    walk = Walk()
    item = {"linkId": "2", "type": "string", "enableWhen": [{"question": "1", **asks}]}
    walk.start({"resourceType": "Questionnaire", "status": "active", "item": [item]})
    assert walk.scopes[0].sound
    assert native(walk, "que-7") == [kept]


@pytest.mark.parametrize("contact", [{"value": "1"}, {"system": "phone", "value": "1"}, {"_value": EMPTY}, {"rank": 1}])
def test_cpt_2_as_fhirpathpy_says(contact: dict[str, Any]) -> None:
    walk = Walk()
    walk.start({"resourceType": "Patient", "telecom": [contact]})
    assert native(walk, "cpt-2") == by_fhirpath(walk, "cpt-2")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("nothing contained", True),
        ("contained and used", True),
        ("contained and not used", False),
        ("used by itself only", False),
        ("without an id", True),
    ],
)
def test_dom_3(name: str, kept: bool) -> None:
    walk = Walk()
    walk.start(RESOURCES[name])
    assert native(walk, "dom-3")[0] is kept


def test_dom_3_a_contained_resource_may_refer_to_its_container() -> None:
    walk = Walk()
    provenance = {
        "resourceType": "Provenance",
        "id": "in",
        "target": [{"reference": "#"}],
        "recorded": "2024-01-01T00:00:00Z",
        "agent": [{"who": {"display": "x"}}],
    }
    walk.start(patient(provenance))
    assert native(walk, "dom-3") == [True, True]
    assert native(walk, "ref-1") == [True, True]


@pytest.mark.parametrize(
    ("low", "high", "kept"),
    [
        ({"value": 1, "code": "kg"}, {"value": 2, "code": "kg"}, True),
        ({"value": 2, "code": "kg"}, {"value": 2, "code": "kg"}, True),
        ({"value": 3, "code": "kg"}, {"value": 2, "code": "kg"}, False),
        ({"value": 3, "code": "g"}, {"value": 2, "code": "kg"}, True),
        ({"value": 3}, {"value": 2}, False),
        ({"unit": "kg"}, {"value": 2, "unit": "kg"}, True),
    ],
)
def test_rng_2(low: dict[str, Any], high: dict[str, Any], kept: bool) -> None:
    walk = Walk()
    walk.start({"resourceType": "Condition", "subject": {"display": "x"}, "onsetRange": {"low": low, "high": high}})
    assert native(walk, "rng-2") == [kept]


@pytest.mark.parametrize(
    ("earlier", "later", "kept"),
    [
        ("2024-01-01", "2024-01-02", True),
        ("2024-01-02", "2024-01-01", False),
        ("2024-01-02T10:00:00+02:00", "2024-01-02T09:00:00Z", True),
        ("2024-01-02T10:00:00Z", "2024-01-02T11:00:00+02:00", False),
        ("2024-01-02T10:00:00.1Z", "2024-01-02T10:00:00.123456789Z", True),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:60Z", True),
        ("2024-01", "2024-01-15", True),
        ("2024-02", "2024-01-15", False),
        ("2024-01-15T10:00:00Z", "2024-01-15", True),
        ("2024", "2024", True),
    ],
)
def test_times_are_compared_with_their_zones_and_as_far_as_they_go(earlier: str, later: str, kept: bool) -> None:
    assert are_in_order(earlier, later) is kept


def test_rules_of_order_apply_to_their_elements() -> None:
    earlier, later = "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"
    for check, (first, second) in zip(
        BY_EXPRESSION.values(),
        [("start", "end"), ("whenPrepared", "whenHandedOver"), ("authoredOn", "lastModified")],
        strict=True,
    ):
        scope = Walk()
        scope.start({"resourceType": "Patient"})
        assert check({first: earlier, second: later}, scope.scopes[0])
        assert check({first: earlier}, scope.scopes[0])
        assert not check({first: later, second: earlier}, scope.scopes[0])
