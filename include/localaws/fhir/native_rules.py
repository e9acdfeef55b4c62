"""Invariants in Python: those that every resource meets, too often for FHIRPath, and those that fhirpathpy gets wrong.

It cannot compare Quantities (rng-2), compares times without their zones (per-1 and its like), and sees no boolean where
there is one (que-7).
Each says what the published expression says; where that expression is known to be wrong (dom-3 casts what it cannot),
what its text says. Tests hold them against fhirpathpy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localaws.fhir.schema import Rule
    from localaws.fhir.structure import Scope

Check = Callable[[Any, "Scope"], bool]


def _contained(value: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = value.get("contained", [])
    return found


def _metas(value: dict[str, Any]) -> list[dict[str, Any]]:
    return [item.get("meta", {}) for item in _contained(value)]


def ext_1(value: dict[str, Any], _: Scope) -> bool:
    """Return whether an extension has either a value or extensions."""
    has_value = any(name.lstrip("_").startswith("value") for name in value)
    return has_value != ("extension" in value)


def dom_2(value: dict[str, Any], _: Scope) -> bool:
    """Return whether no contained resource contains resources."""
    return not any(_contained(item) for item in _contained(value))


def dom_3(value: dict[str, Any], _: Scope) -> bool:
    """Return whether every contained resource is referred to from elsewhere, or refers to its container."""
    contained = [item for item in _contained(value) if "id" in item]
    if not contained:
        return True
    uses = Counter(_fragments(value))
    for item in contained:
        own = Counter(_fragments(item))
        name = f"#{item['id']}"
        if uses[name] == own[name] and not own["#"]:
            return False
    return True


def dom_4(value: dict[str, Any], _: Scope) -> bool:
    """Return whether no contained resource has a version or a time of its own."""
    return not any("versionId" in meta or "lastUpdated" in meta for meta in _metas(value))


def dom_5(value: dict[str, Any], _: Scope) -> bool:
    """Return whether no contained resource has a security label."""
    return not any("security" in meta for meta in _metas(value))


def ref_1(value: dict[str, Any], scope: Scope) -> bool:
    """Return whether a local reference leads to a contained resource; ``#`` is the container itself."""
    literal = value.get("reference", "")
    return not literal.startswith("#") or literal in scope.known


def rng_2(value: dict[str, Any], _: Scope) -> bool:
    """Return whether a range's low is not above its high; Quantities of different units are not compared."""
    low, high = value.get("low", {}), value.get("high", {})
    comparable = all(low.get(name) == high.get(name) for name in ("system", "code", "unit"))
    return not comparable or "value" not in low or "value" not in high or bool(low["value"] <= high["value"])


def _has(value: dict[str, Any], name: str) -> bool:
    return name in value or f"_{name}" in value  # the second one holds the extensions of a primitive


def _needs_system(name: str) -> Check:
    def check(value: dict[str, Any], _: Scope) -> bool:
        return not _has(value, name) or _has(value, "system")

    return check


def _has_value(observation: dict[str, Any]) -> bool:
    return any(name.lstrip("_").startswith("value") for name in observation)


def obs_6(value: dict[str, Any], _: Scope) -> bool:
    """Return whether an observation lacks a value or a reason why the value is absent."""
    return "dataAbsentReason" not in value or not _has_value(value)


def obs_7(value: dict[str, Any], scope: Scope) -> bool:
    """Return whether an observation with a value has no component of the same code."""
    if "component" not in value or not _has_value(value):
        return True
    codings = scope.resource.get("code", {}).get("coding", [])
    return not any(
        coding in codings for component in value["component"] for coding in component.get("code", {}).get("coding", [])
    )


def que_7(value: dict[str, Any], _: Scope) -> bool:
    """Return whether what asks for an answer's existence names a boolean (fhirpathpy's ``is Boolean`` never holds)."""
    return value.get("operator") != "exists" or _has(value, "answerBoolean")


def _fragments(value: Any) -> Iterator[str]:
    """Yield the strings in a value that lead to something inside the resource."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, str) and item.startswith("#"):
            yield item


def are_in_order(earlier: str, later: str) -> bool:
    """Return whether two dates or times are in order, as far as their precision goes."""
    if len(earlier) > 10 and len(later) > 10:
        return _moment(earlier) <= _moment(later)
    common = min(len(earlier), len(later), 10)
    return earlier[:common] <= later[:common]


def _moment(value: str) -> datetime:
    return datetime.fromisoformat(value.replace(":60", ":59"))  # a leap second is none to datetime


def _in_order(earlier: str, later: str) -> Check:
    def check(value: dict[str, Any], _: Scope) -> bool:
        return earlier not in value or later not in value or are_in_order(value[earlier], value[later])

    return check


BY_KEY: dict[str, Check] = {
    "ext-1": ext_1,
    "dom-2": dom_2,
    "dom-3": dom_3,
    "dom-4": dom_4,
    "dom-5": dom_5,
    "ref-1": ref_1,
    "rng-2": rng_2,
    "qty-3": _needs_system("code"),
    "cpt-2": _needs_system("value"),
    "obs-6": obs_6,
    "obs-7": obs_7,
    "que-7": que_7,
}
# By expression, since inv-1 is another rule in Parameters.
BY_EXPRESSION: dict[str, Check] = {
    "start.hasValue().not() or end.hasValue().not() or (start <= end)": _in_order("start", "end"),
    "whenHandedOver.empty() or whenPrepared.empty() or whenHandedOver >= whenPrepared": _in_order(
        "whenPrepared", "whenHandedOver"
    ),
    "lastModified.exists().not() or authoredOn.exists().not() or lastModified >= authoredOn": _in_order(
        "authoredOn", "lastModified"
    ),
}


def native(rule: Rule) -> Check | None:
    """Return the check of a rule in Python, or None where FHIRPath is to evaluate it."""
    return BY_KEY.get(rule.key) or BY_EXPRESSION.get(rule.expression)
