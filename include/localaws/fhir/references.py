"""The target of a Reference (https://hl7.org/fhir/R4/references.html#literal)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from localaws.fhir.schema import schema

if TYPE_CHECKING:
    from collections.abc import Mapping

LITERAL = re.compile(r"(?:.*/)?([A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?", re.DOTALL)
CONDITIONAL = re.compile(r"([A-Za-z]+)\?.+", re.DOTALL)


def target_type(reference: dict[str, Any], known: Mapping[str, str]) -> str | None:
    """Return the resource type that a Reference leads to, or None where it cannot be told.

    Parameters
    ----------
    reference
        The Reference.
    known
        Resource types by reference, for contained resources (``#id``) and entries of a Bundle (their ``fullUrl``).
    """
    literal = reference.get("reference")
    if isinstance(literal, str):
        if literal in known:
            return known[literal]
        match = LITERAL.fullmatch(literal) or CONDITIONAL.fullmatch(literal)
        if match and (match[1] in schema().resource_types or is_relative(literal)):
            return match[1]
    named = reference.get("type")
    return named if isinstance(named, str) and named in schema().resource_types else None


def is_relative(literal: str) -> bool:
    """Return whether a reference is relative to the data store: neither a URL nor a fragment."""
    return ":" not in literal and not literal.startswith(("#", "/"))


def known_references(resource: dict[str, Any]) -> dict[str, str]:
    """Return the types of the resources inside a resource, by reference.

    Contained resources are known by ``#id``, a Bundle's entries by their ``fullUrl``; ``#`` is the resource itself.
    """
    found = {"#": str(resource["resourceType"])}
    for item in _list(resource.get("contained")):
        if _has(item, "id") and _has(item, "resourceType"):
            found[f"#{item['id']}"] = item["resourceType"]
    for entry in _list(resource.get("entry")):
        if _has(entry, "fullUrl") and _has(entry.get("resource"), "resourceType"):
            found[entry["fullUrl"]] = entry["resource"]["resourceType"]
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and isinstance(value.get(key), str)
