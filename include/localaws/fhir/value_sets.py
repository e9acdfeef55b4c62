"""Expansion of FHIR value sets whose codes are all in the published code systems.

A value set that needs a code system which is not published with FHIR (SNOMED CT, LOINC, UCUM, MIME types, ...) has no
expansion here, and nothing is said about codes bound to it. See https://hl7.org/fhir/R4/valueset.html#expansion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Codes = dict[str, list[str]]


class ValueSets:
    """The value sets and code systems of a set of FHIR resources.

    Parameters
    ----------
    resources
        FHIR resources of any type; ValueSet and CodeSystem are used, by their canonical url.
    """

    def __init__(self, resources: Iterable[dict[str, Any]]) -> None:
        self._sets: dict[str, dict[str, Any]] = {}
        self._systems: dict[str, dict[str, Any]] = {}
        for resource in resources:
            if resource["resourceType"] == "ValueSet":
                self._sets[resource["url"]] = resource
            elif resource["resourceType"] == "CodeSystem":
                self._systems[resource["url"]] = resource

    def expand(self, canonical: str) -> Codes | None:
        """Return the codes of a value set by code system, or None where they cannot all be listed."""
        value_set = self._sets.get(canonical.partition("|")[0])
        if value_set is None:
            return None
        compose = value_set.get("compose", {})
        if compose.get("exclude") or not compose.get("include"):
            return None
        found: dict[str, set[str]] = {}
        for part in compose["include"]:
            codes = self._included(part)
            if codes is None:
                return None
            for system, members in codes.items():
                found.setdefault(system, set()).update(members)
        return {system: sorted(members) for system, members in sorted(found.items())}

    def _included(self, part: dict[str, Any]) -> Codes | None:
        if part.get("filter"):
            return None
        if "valueSet" in part:
            only_one = len(part["valueSet"]) == 1 and "system" not in part
            return self.expand(part["valueSet"][0]) if only_one else None
        if "concept" in part:
            return {part["system"]: [concept["code"] for concept in part["concept"]]}
        system = self._systems.get(part["system"])
        if system is None or system.get("content") != "complete":
            return None
        return {part["system"]: list(_codes(system.get("concept", [])))}


def _codes(concepts: list[dict[str, Any]]) -> Iterator[str]:
    for concept in concepts:
        yield concept["code"]
        yield from _codes(concept.get("concept", []))
