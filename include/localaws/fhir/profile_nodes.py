"""The profiles in memory: trees of what a profile adds to the base definition of its type."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from localaws.fhir.schema import UNBOUNDED, Rule, ValueSet, read, schema

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE = "http://hl7.org/fhir/StructureDefinition/"


@dataclass(frozen=True, slots=True)
class Allowed:
    """One type that a profile allows, with its own profiles and those that a Reference may lead to (canonicals)."""

    code: str
    profiles: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Discriminator:
    """The discriminator that tells the slices of an element apart."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Node:
    """A profile's demands on one element; by default an attribute demands nothing."""

    minimum: int = 0
    maximum: int = UNBOUNDED
    types: tuple[Allowed, ...] = ()
    fixed: Any = None
    pattern: Any = None
    value_set: ValueSet | None = None
    rules: tuple[Rule, ...] = ()
    discriminators: tuple[Discriminator, ...] = ()
    closed: bool = False
    slices: Mapping[str, Node] = field(default_factory=dict)
    children: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile: the type that it constrains, its version, and its demands."""

    type: str
    version: str
    root: Node


@cache
def _contents() -> dict[str, Any]:
    contents: dict[str, Any] = read("profiles.json.gz")["profiles"]
    return contents


@cache
def profile(url: str) -> Profile | None:
    """Return a profile by its canonical url, without a version; None if there is no definition here."""
    content = _contents().get(url)
    return None if content is None else Profile(content["type"], content["version"], _node(content["root"]))


def type_of(canonical: str) -> str | None:
    """Return the type that a base definition or a profile is about, or None where that is not known here."""
    name = canonical.removeprefix(BASE)
    if name in schema().resource_types or name == "Resource":
        return name
    found = profile(canonical)
    return found.type if found else None


def _node(content: dict[str, Any]) -> Node:
    slicing = content.get("slicing", {})
    maximum = content.get("max", "*")
    return Node(
        content.get("min", 0),
        UNBOUNDED if maximum == "*" else int(maximum),
        tuple(_allowed(item) for item in content.get("types", ())),
        content.get("fixed"),
        content.get("pattern"),
        schema().value_sets.get(content.get("binding", "")),
        tuple(schema().rules[number] for number in content.get("rules", ())),
        tuple(Discriminator(item["type"], item["path"]) for item in slicing.get("discriminators", ())),
        slicing.get("rules") == "closed",
        {name: _node(item) for name, item in content.get("slices", {}).items()},
        {name: _node(item) for name, item in content.get("children", {}).items()},
    )


def _allowed(content: dict[str, Any]) -> Allowed:
    return Allowed(content["code"], _canonicals(content, "profiles"), _canonicals(content, "targets"))


def _canonicals(content: dict[str, Any], name: str) -> tuple[str, ...]:
    return tuple(item if ":" in item else BASE + item for item in content.get(name, ()))
