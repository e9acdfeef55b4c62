"""Reduction of one ElementDefinition (https://hl7.org/fhir/R4/elementdefinition.html) and of invariants."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

BASE = "http://hl7.org/fhir/StructureDefinition/"
FHIR_TYPE = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"
# ele-1 ("has a value or children") is a matter of structure; ext-1 belongs to Extension, where it is kept.
REPEATED_EVERYWHERE = frozenset({"ele-1", "ext-1"})


class Rules:
    """The invariants of all definitions, each once; the definitions refer to them by number."""

    def __init__(self) -> None:
        self.listed: list[Json] = []
        self._numbers: dict[tuple[str, str], int] = {}

    def numbers(self, constraints: list[Json], without: frozenset[str] = frozenset()) -> list[int]:
        """Return the numbers of constraints that have an expression, leaving out the keys in `without`."""
        kept = [item for item in constraints if item["key"] not in without and item.get("expression")]
        return [self._number(item) for item in kept]

    def _number(self, constraint: Json) -> int:
        identity = (constraint["key"], constraint["expression"])
        if identity not in self._numbers:
            self._numbers[identity] = len(self.listed)
            self.listed.append({name: constraint[name] for name in ("key", "severity", "human", "expression")})
        return self._numbers[identity]


def type_code(kind: Json) -> str:
    """Return the FHIR type of an ElementDefinition.type; FHIRPath's System types are resolved to FHIR's."""
    for extension in kind.get("extension", []):
        if extension["url"] == FHIR_TYPE:
            return str(extension["valueUrl"])
    return str(kind["code"])


def reduced_type(kind: Json) -> Json:
    """Return one ElementDefinition.type: code, and where they are given target types and profiles."""
    reduced: Json = {"code": type_code(kind)}
    if "targetProfile" in kind:
        reduced["targets"] = sorted(target.removeprefix(BASE) for target in kind["targetProfile"])
    if "profile" in kind:
        reduced["profiles"] = sorted(profile.removeprefix(BASE) for profile in kind["profile"])
    return reduced


def required_binding(element: Json) -> str | None:
    """Return the canonical of an element's value set if the binding is required."""
    binding = element.get("binding", {})
    value_set = binding.get("valueSet")
    return str(value_set).partition("|")[0] if value_set and binding["strength"] == "required" else None


def reduced_element(element: Json, parents: set[str], rules: Rules) -> Json:
    """Return the parts of one ElementDefinition of a base definition that the validator reads."""
    path = element["path"]
    reduced: Json = {"max": element["max"], "min": element["min"]}
    if "contentReference" in element:
        reduced["types"] = [{"code": element["contentReference"].partition("#")[2]}]
    elif path in parents:
        reduced["types"] = [{"code": path}]
    else:
        reduced["types"] = [reduced_type(kind) for kind in element["type"]]
        numbers = rules.numbers(element.get("constraint", []), REPEATED_EVERYWHERE)
        reduced |= {"rules": numbers} if numbers else {}
    binding = required_binding(element)
    return reduced | ({"binding": binding} if binding else {})
