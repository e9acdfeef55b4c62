"""Conformance to profiles: their demands beyond the base definition (https://hl7.org/fhir/R4/profiling.html).

Cardinality, narrowed types and reference targets, fixed values and patterns, required bindings, invariants, slices by
discriminator, and the profiles of extensions are checked. Not checked are ``mustSupport``, which is a demand on
systems, and what can only be known by looking elsewhere: the profile that a referenced resource conforms to.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from localaws.fhir import codes
from localaws.fhir.findings import Issue
from localaws.fhir.invariants import broken_rule
from localaws.fhir.items import resource_item
from localaws.fhir.patterns import equals, matches
from localaws.fhir.profile_nodes import BASE, profile, type_of
from localaws.fhir.references import target_type
from localaws.fhir.schema import schema
from localaws.fhir.structure import RuledElement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from localaws.fhir.items import Item
    from localaws.fhir.profile_nodes import Discriminator, Node
    from localaws.fhir.structure import Scope

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/"
UNKNOWN = "names a profile that this data store does not have; leave it out, or check at structure-only"
UNCHECKED = "a profile of US Core is not checked: its definition, or this version of it, is not here"


def knows(canonical: str) -> bool:
    """Return whether there is a definition here for a profile or a base type, in the version named if one is."""
    url, _, version = canonical.partition("|")
    found = profile(url)
    if found is not None:
        return version in {"", found.version}
    is_base = url.startswith(BASE) and url.removeprefix(BASE) in schema().resource_types
    return is_base and version in {"", schema().about["fhirVersion"]}


def conformance(canonical: str, scope: Scope) -> Iterator[Issue]:
    """Yield where a resource does not conform to a profile.

    A profile that is not known is an error, as AWS refuses it. One of US Core that has no definition here is a warning:
    AWS has it, and its answer is not known.
    """
    location = _where_named(canonical, scope)
    if not knows(canonical):
        missing = canonical.startswith(US_CORE)
        severity, sentence = ("warning", UNCHECKED) if missing else ("error", UNKNOWN)
        yield Issue(severity, "not-supported", sentence, (location,))
        return
    url = canonical.partition("|")[0]
    expected = type_of(url)
    if expected != scope.resource["resourceType"]:
        yield Issue("error", "structure", f"a profile on {expected} cannot be that of this resource", (location,))
    elif found := profile(url):
        for issue in Conformance(scope).problems(found.root, resource_item(scope.resource, scope.location)):
            yield replace(issue, diagnostics=f"{issue.diagnostics} (profile {url})")


def named_profiles(resource: dict[str, Any]) -> list[str]:
    """Return the canonicals in a resource's ``meta.profile``, however the resource is formed."""
    meta = resource.get("meta")
    named = meta.get("profile") if isinstance(meta, dict) else None
    return [item for item in named if isinstance(item, str)] if isinstance(named, list) else []


def _where_named(canonical: str, scope: Scope) -> str:
    named = named_profiles(scope.resource)
    return f"{scope.location}.meta.profile[{named.index(canonical)}]" if canonical in named else scope.location


class Conformance:
    """The check of one resource against profiles."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def problems(self, node: Node, item: Item) -> Iterator[Issue]:
        """Yield where a value does not meet a node's demands."""
        yield from self._own(node, item)
        if not _is_of_type(node, item):
            names = " | ".join(kind.code for kind in node.types)
            yield Issue("error", "structure", f"must be of the type {names}", (item.location,))
            return
        yield from self._typed(node, item)
        for label, child in node.children.items():
            yield from self._element(child, item.children(label), f"{item.location}.{label.removesuffix('[x]')}")

    def _element(self, node: Node, items: Sequence[Item], location: str) -> Iterator[Issue]:
        yield from _cardinality(node, len(items), location)
        for item in items:
            yield from self.problems(node, item)
        if node.slices and (items or not node.minimum):
            yield from self._slices(node, items, location)

    def _slices(self, node: Node, items: Sequence[Item], location: str) -> Iterator[Issue]:
        open_items = list(items)
        for name, one in node.slices.items():
            if not all(_is_decidable(one, by) for by in node.discriminators):
                continue
            own = [item for item in open_items if self._belongs(item, one, node.discriminators)]
            open_items = [item for item in open_items if item not in own]
            yield from _cardinality(one, len(own), location, f" in the slice {name}")
            for item in own:
                yield from self.problems(one, item)
        if node.closed:
            for item in open_items:
                yield Issue(
                    "error", "structure", "is in none of the slices, and there may be no others", (item.location,)
                )

    def _belongs(self, item: Item, node: Node, discriminators: Sequence[Discriminator]) -> bool:
        return all(self._fits(item, node, by) for by in discriminators) and (
            bool(discriminators) or item.code in {kind.code for kind in node.types}
        )

    def _fits(self, item: Item, node: Node, by: Discriminator) -> bool:
        demand, found = _descend(node, [item], by.path)
        if by.kind == "exists":
            return bool(found) == (demand.maximum > 0)
        if by.kind == "type":
            return any(one.code in {kind.code for kind in demand.types} for one in found)
        return any(not any(self.problems(demand, one)) for one in found)

    def _own(self, node: Node, item: Item) -> Iterator[Issue]:
        """Yield the demands on the value itself that it does not meet."""
        at = (item.location,)
        if node.fixed is not None and not equals(item.value, node.fixed):
            yield Issue("error", "value", f"must be the fixed value{_describe_value(node.fixed)}", at)
        if node.pattern is not None and not matches(item.value, node.pattern):
            yield Issue("error", "value", f"must match the pattern{_describe_value(node.pattern)}", at)
        if node.value_set is not None and item.value is not None and not codes.is_member(item.value, node.value_set):
            yield Issue("error", "code-invalid", codes.sentence(node.value_set), at)
        if self._scope.sound:
            for rule in node.rules:
                element = RuledElement((rule,), item.value, item.structure, item.location)
                if issue := broken_rule(rule, element, self._scope):
                    yield issue

    def _typed(self, node: Node, item: Item) -> Iterator[Issue]:
        for kind in node.types:
            if kind.code != item.code:
                continue
            if kind.targets and item.code == "Reference":
                yield from self._target(kind.targets, item)
            # Of several profiles one must be met; which one is not told by looking, so only a single one is checked.
            found = profile(kind.profiles[0]) if len(kind.profiles) == 1 else None
            if found is not None:
                yield from self.problems(found.root, item)

    def _target(self, targets: Sequence[str], item: Item) -> Iterator[Issue]:
        types = {type_of(canonical) for canonical in targets}
        target = target_type(item.members, self._scope.known)
        if target is None or None in types or "Resource" in types or target in types:
            return
        names = " | ".join(sorted(str(name) for name in types))
        yield Issue("error", "value", f"must lead to {names}", (f"{item.location}.reference",))


def _is_of_type(node: Node, item: Item) -> bool:
    return not node.types or item.code in {kind.code for kind in node.types}


def _cardinality(node: Node, count: int, location: str, where: str = "") -> Iterator[Issue]:
    if count < node.minimum:
        yield Issue("error", "required", f"at least {node.minimum} required{where}", (location,))
    if count > node.maximum:
        yield Issue("error", "structure", f"at most {node.maximum} allowed{where}", (location,))


def _descend(node: Node, items: list[Item], path: str) -> tuple[Node, list[Item]]:
    """Return a slice's demands at a discriminator's path, and the values found at that path."""
    for step in [] if path == "$this" else path.split("."):
        label = step if step in node.children or f"{step}[x]" not in node.children else f"{step}[x]"
        node = node.children.get(label) or _within_pattern(node, step)
        items = [child for item in items for child in item.children(label)]
    return node, items


def _within_pattern(node: Node, name: str) -> Node:
    """Return the demand on a member that follows from a pattern or a fixed value above it."""
    above = node.fixed if node.pattern is None else node.pattern
    inner = above.get(name) if isinstance(above, dict) else None
    return type(node)(pattern=inner[0] if isinstance(inner, list) else inner)


def _is_decidable(node: Node, by: Discriminator) -> bool:
    """Return whether a slice describes its members at this path; resolve() and profiles cannot be followed."""
    if by.kind == "profile" or "(" in by.path:
        return False
    demand, _ = _descend(node, [], by.path)
    if by.kind == "type":
        return bool(demand.types)
    return demand != type(node)()


def _describe_value(value: object) -> str:
    return f" ({value})" if isinstance(value, str) else ""
