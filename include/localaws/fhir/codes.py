"""Required bindings: whether a coded value is in its value set (https://hl7.org/fhir/R4/terminologies.html#required)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localaws.fhir.schema import ValueSet

MOST_NAMED = 20


def is_member(value: Any, value_set: ValueSet) -> bool:
    """Return whether a code, string or uri, Coding, CodeableConcept or Quantity is in a value set."""
    if isinstance(value, str):
        return value in value_set.codes
    if not isinstance(value, dict):
        return True
    if "coding" in value:
        codings = value["coding"]
        return isinstance(codings, list) and any(_coding(coding, value_set) for coding in codings)
    if "code" in value or "system" in value:
        return _coding(value, value_set)
    # Text alone is not a code of the value set; an element with nothing but extensions says why the code is absent.
    return value.keys() <= {"id", "extension"}


def _coding(coding: Any, value_set: ValueSet) -> bool:
    if not isinstance(coding, dict):
        return False
    system, code = coding.get("system"), coding.get("code")
    return isinstance(system, str) and isinstance(code, str) and code in value_set.systems.get(system, ())


def sentence(value_set: ValueSet) -> str:
    """Return the demand of a value set: its codes where they are few, else its canonical."""
    if len(value_set.codes) > MOST_NAMED:
        return f"must be a code of the value set {value_set.canonical} (required binding)"
    return f"must be one of {' | '.join(sorted(value_set.codes))} (required binding to {value_set.canonical})"
