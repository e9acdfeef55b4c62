"""The reduced definitions of FHIR R4 in memory: structures, their elements, value sets, invariants."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

UNBOUNDED = 1 << 31


@dataclass(frozen=True, slots=True)
class Rule:
    """An invariant (ElementDefinition.constraint)."""

    key: str
    severity: str
    human: str
    expression: str


@dataclass(frozen=True, slots=True)
class ValueSet:
    """The codes of a value set, by code system."""

    canonical: str
    systems: dict[str, frozenset[str]]
    codes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Type:
    """One type that an element may have, its structure, and the types or profiles that a Reference may lead to."""

    code: str
    structure: str
    targets: frozenset[str]


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a structure; the label of a choice ends in ``[x]``, its name does not."""

    name: str
    label: str
    minimum: int
    maximum: int
    repeats: bool
    types: tuple[Type, ...]
    value_set: ValueSet | None
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A name that an object may have in JSON: an element with one of its types (``valueQuantity``)."""

    element: Element
    type: Type


@dataclass(frozen=True, slots=True)
class Structure:
    """A resource, a complex type, or a backbone element (``Patient.contact``)."""

    name: str
    kind: str
    fields: dict[str, Field]
    required: tuple[Element, ...]
    rules: tuple[Rule, ...]


def read(name: str) -> Any:
    """Return the content of one file of reduced definitions."""
    content = files("localaws.fhir").joinpath("definitions", name).read_bytes()
    return json.loads(gzip.decompress(content))


class Schema:
    """The base definitions of FHIR 4.0.1; a structure is built when it is first asked for."""

    def __init__(self) -> None:
        self._read = read("r4.json.gz")
        self._structures: dict[str, Structure] = {}
        self.about: dict[str, str] = self._read["about"]
        self.primitives: frozenset[str] = frozenset(self._read["primitives"])
        self.resource_types = frozenset(
            name for name, item in self._read["structures"].items() if item.get("kind") == "resource"
        )

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """All invariants, those of the profiles too; definitions refer to them by number."""
        return tuple(Rule(**item) for item in self._read["rules"])

    @cached_property
    def value_sets(self) -> dict[str, ValueSet]:
        """The value sets of required bindings whose codes are all known."""
        return {canonical: _value_set(canonical, codes) for canonical, codes in self._read["valueSets"].items()}

    def regex(self, primitive: str) -> str:
        """Return the published regular expression of a primitive type."""
        return str(self._read["primitives"][primitive].get("regex", ""))

    def structure(self, name: str) -> Structure:
        """Return a resource, complex type or backbone element by its path.

        Raises
        ------
        KeyError
            There is none of that name in FHIR R4.
        """
        if name not in self._structures:
            self._structures[name] = self._built(name, self._read["structures"][name])
        return self._structures[name]

    def _built(self, name: str, content: dict[str, Any]) -> Structure:
        elements = {key: self._element(key, item) for key, item in content["elements"].items()}
        fields = {name: field for key, element in elements.items() for name, field in _fields(key, element)}
        rules = tuple(self.rules[number] for number in content["rules"])
        required = tuple(element for element in elements.values() if element.minimum)
        return Structure(name, content.get("kind", "backbone"), fields, required, rules)

    def _element(self, name: str, content: dict[str, Any]) -> Element:
        return Element(
            name.removesuffix("[x]"),
            name,
            content["min"],
            UNBOUNDED if content["max"] == "*" else int(content["max"]),
            content["max"] not in {"0", "1"},
            tuple(_type(item) for item in content["types"]),
            self.value_sets.get(content.get("binding", "")),
            tuple(self.rules[number] for number in content.get("rules", ())),
        )


@cache
def schema() -> Schema:
    """Return the definitions, read once."""
    return Schema()


def _value_set(canonical: str, systems: dict[str, list[str]]) -> ValueSet:
    by_system = {system: frozenset(codes) for system, codes in systems.items()}
    return ValueSet(canonical, by_system, frozenset().union(*by_system.values()))


def _type(content: dict[str, Any]) -> Type:
    # The only profile on a type of a base definition is SimpleQuantity, which is a structure here.
    structure = content.get("profiles", (content["code"],))[0]
    return Type(content["code"], structure, frozenset(content.get("targets", ())))


def _fields(name: str, element: Element) -> list[tuple[str, Field]]:
    if element.maximum == 0:
        return []
    if not name.endswith("[x]"):
        return [(element.name, Field(element, element.types[0]))]
    return [(f"{element.name}{kind.code[0].upper()}{kind.code[1:]}", Field(element, kind)) for kind in element.types]
