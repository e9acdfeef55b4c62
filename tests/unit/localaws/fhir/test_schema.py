"""The reduced definitions that ship."""

from __future__ import annotations

import json

import fhirkit
import pytest

from localaws.fhir.schema import read, schema

ALL = 148  # resource types of FHIR R4, the abstract Resource and DomainResource included


def test_where_they_come_from_is_said() -> None:
    about = schema().about
    assert (about["fhirVersion"], about["build"], about["license"]) == ("4.0.1", "9346c8cc45", "CC0-1.0")


def test_every_resource_type_of_r4_is_there() -> None:
    assert len(schema().resource_types) == ALL - 2
    assert schema().resource_types == set(fhirkit.RESOURCE_TYPES)


@pytest.mark.parametrize("name", sorted(fhirkit.RESOURCE_TYPES))
def test_the_same_elements_are_required_as_another_library_says(name: str) -> None:
    issues = fhirkit.validate(json.dumps({"resourceType": name, "language": "en"}))
    missing = {issue.path.removeprefix(f"{name}.").removesuffix("[x]") for issue in issues}
    assert {element.name for element in schema().structure(name).required} == missing


def test_every_structure_can_be_built_and_leads_to_types_that_exist() -> None:
    for name in read("r4.json.gz")["structures"]:
        for member in schema().structure(name).fields.values():
            kind = member.type
            assert kind.code in schema().primitives or schema().structure(kind.structure)


def test_nothing_of_other_versions_or_makers_is_in_them() -> None:
    """The npm package that the value sets come from has its own elements in Meta, and R5's in ResearchStudy."""
    assert set(schema().structure("Meta").fields) == {
        "id",
        "extension",
        "versionId",
        "lastUpdated",
        "source",
        "profile",
        "security",
        "tag",
    }
    assert "region" not in schema().structure("ResearchStudy").fields


def test_choices_are_named_by_type() -> None:
    fields = schema().structure("Observation").fields
    assert fields["valueQuantity"].element is fields["valueString"].element
    assert fields["valueQuantity"].element.label == "value[x]"
    assert "value" not in fields
