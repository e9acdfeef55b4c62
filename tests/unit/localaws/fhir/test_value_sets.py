"""Expansion of value sets."""

from __future__ import annotations

from typing import Any

from localaws.fhir.value_sets import ValueSets

COLOURS = {
    "resourceType": "CodeSystem",
    "url": "http://x.example/colours",
    "content": "complete",
    "concept": [{"code": "red", "concept": [{"code": "crimson"}]}, {"code": "blue"}],
}
PARTIAL = {"resourceType": "CodeSystem", "url": "http://x.example/partial", "content": "fragment", "concept": []}


def expand(*include: dict[str, Any], **compose: Any) -> Any:
    value_set = {
        "resourceType": "ValueSet",
        "url": "http://x.example/set",
        "compose": {"include": list(include), **compose},
    }
    other = {
        "resourceType": "ValueSet",
        "url": "http://x.example/other",
        "compose": {"include": [{"system": "s", "concept": [{"code": "a"}]}]},
    }
    return ValueSets([COLOURS, PARTIAL, value_set, other]).expand("http://x.example/set|1.0")


def test_a_whole_code_system() -> None:
    assert expand({"system": COLOURS["url"]}) == {COLOURS["url"]: ["blue", "crimson", "red"]}


def test_some_codes_of_it() -> None:
    assert expand({"system": "s", "concept": [{"code": "b"}, {"code": "a"}]}) == {"s": ["a", "b"]}


def test_another_value_set() -> None:
    assert expand({"valueSet": ["http://x.example/other"]}, {"system": "s", "concept": [{"code": "b"}]}) == {
        "s": ["a", "b"]
    }


def test_what_cannot_be_listed_in_full_is_not_listed() -> None:
    assert expand({"system": PARTIAL["url"]}) is None
    assert expand({"system": "http://snomed.info/sct"}) is None
    assert expand({"system": COLOURS["url"], "filter": [{"property": "concept", "op": "is-a", "value": "red"}]}) is None
    assert expand({"system": COLOURS["url"], "valueSet": ["http://x.example/other"]}) is None
    assert (
        expand({"system": COLOURS["url"]}, exclude=[{"system": COLOURS["url"], "concept": [{"code": "red"}]}]) is None
    )
    assert expand() is None
    assert ValueSets([]).expand("http://x.example/set") is None
