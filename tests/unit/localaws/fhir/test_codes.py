"""Required bindings."""

from __future__ import annotations

from typing import Any

import pytest

from localaws.fhir.codes import is_member, sentence
from localaws.fhir.schema import schema

CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
VALUE_SET = schema().value_sets["http://hl7.org/fhir/ValueSet/condition-clinical"]
ACTIVE = {"system": CLINICAL, "code": "active"}
ABSENT = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}


@pytest.mark.parametrize(
    ("value", "member"),
    [
        ("active", True),
        ("bogus", False),
        (ACTIVE, True),
        (ACTIVE | {"display": "Active"}, True),
        ({"code": "active"}, False),
        ({"system": "http://x.example", "code": "active"}, False),
        ({"display": "Active"}, False),
        ({"coding": [ACTIVE]}, True),
        ({"coding": [{"system": "http://x.example", "code": "1"}, ACTIVE]}, True),
        ({"coding": [{"system": "http://x.example", "code": "1"}]}, False),
        ({"text": "active"}, False),
        (ABSENT, True),
        ({"coding": "active"}, False),
        ({"coding": [None, 1]}, False),
    ],
)
def test_membership(value: Any, member: bool) -> None:
    assert is_member(value, VALUE_SET) is member


def test_the_sentence_names_few_codes_and_the_value_set_of_many() -> None:
    assert "active | inactive | recurrence | relapse | remission | resolved" in sentence(VALUE_SET)
    many = schema().value_sets["http://hl7.org/fhir/ValueSet/resource-types"]
    assert many.canonical in sentence(many)
    assert "Patient" not in sentence(many)
