"""The elements of a resource as profiles look at them."""

from __future__ import annotations

from typing import Any

from localaws.fhir.items import resource_item


def children(label: str, **elements: Any) -> list[tuple[Any, str, str]]:
    item = resource_item({"resourceType": "Patient", **elements}, "Patient")
    return [(child.value, child.code, child.location) for child in item.children(label)]


def test_items_of_an_array_are_numbered() -> None:
    assert children("name", name=[{"text": "a"}, {"text": "b"}]) == [
        ({"text": "a"}, "HumanName", "Patient.name[0]"),
        ({"text": "b"}, "HumanName", "Patient.name[1]"),
    ]


def test_a_choice_is_found_under_any_of_its_names() -> None:
    assert children("deceased[x]", deceasedBoolean=True) == [(True, "boolean", "Patient.deceasedBoolean")]
    assert children("deceased[x]", deceasedDateTime="2024") == [("2024", "dateTime", "Patient.deceasedDateTime")]


def test_a_primitive_has_its_extensions_as_elements() -> None:
    extension = [{"url": "http://x.example", "valueString": "x"}]
    item = resource_item({"resourceType": "Patient", "_birthDate": {"extension": extension}}, "Patient")
    (birth_date,) = item.children("birthDate")
    assert birth_date.value is None
    assert [child.value for child in birth_date.children("extension")] == extension


def test_what_is_not_there_has_no_items() -> None:
    assert children("name") == []
    assert children("nonsense", nonsense=1) == []
    assert children("name", name="x") == [("x", "HumanName", "Patient.name")]


def test_a_resource_inside_is_of_its_own_type() -> None:
    assert children("contained", contained=[{"resourceType": "Organization"}, 5]) == [
        ({"resourceType": "Organization"}, "Organization", "Patient.contained[0]"),
        (5, "Resource", "Patient.contained[1]"),
    ]
