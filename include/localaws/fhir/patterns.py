"""Fixed values and patterns of a profile (https://hl7.org/fhir/R4/elementdefinition-definitions.html)."""

from __future__ import annotations

from typing import Any


def equals(value: Any, fixed: Any) -> bool:
    """Return whether a value is exactly the fixed one; JSON's true is not 1."""
    return type(value) is type(fixed) and bool(value == fixed)


def matches(value: Any, pattern: Any) -> bool:
    """Return whether a value has at least what the pattern has; an array needs one match for each of the pattern's."""
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(
            name in value and matches(value[name], pattern[name]) for name in pattern
        )
    if isinstance(pattern, list):
        return isinstance(value, list) and all(any(matches(item, part) for item in value) for part in pattern)
    return equals(value, pattern)
