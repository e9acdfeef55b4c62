"""The walk through a resource along the base definitions of FHIR R4.

It checks structure (types, cardinality, unknown elements, primitive formats; https://hl7.org/fhir/R4/json.html), and
where asked to, required bindings and the types that references lead to. It collects the elements to which invariants
apply, for `localaws.fhir.invariants`, and the resources met, for `localaws.fhir.profiles`.
"""

from __future__ import annotations

import re
from collections import ChainMap
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from localaws.fhir import codes, primitives
from localaws.fhir.findings import Issue
from localaws.fhir.references import known_references, target_type
from localaws.fhir.schema import schema

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from localaws.fhir.schema import Field, Rule, Structure

DEEPEST = 64
MOST_ISSUES = 100
NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9]{0,63}")


@dataclass(frozen=True, slots=True)
class RuledElement:
    """A value to which invariants apply, with the FHIR path of its definition and its location in the resource."""

    rules: tuple[Rule, ...]
    value: Any
    definition: str
    location: str


@dataclass(slots=True)
class Scope:
    """One resource met on the walk.

    Attributes
    ----------
    resource, location
        The resource, and where it is.
    root
        The resource that contains it; itself if none does.
    known
        The types of what its references may lead to, by reference.
    ruled
        Where invariants apply.
    sound
        Whether its structure is as defined; only then do invariants mean anything.
    """

    resource: dict[str, Any]
    location: str
    root: dict[str, Any]
    known: MutableMapping[str, str]
    ruled: list[RuledElement] = field(default_factory=list)
    sound: bool = True


@dataclass(frozen=True, slots=True)
class Spot:
    """The walk's position: its resource, location and depth."""

    scope: Scope
    location: str
    depth: int

    def member(self, name: str) -> Spot:
        """Return the spot of a member of this object."""
        return Spot(self.scope, f"{self.location}.{name}", self.depth + 1)

    def item(self, index: int) -> Spot:
        """Return the spot of an item of this array."""
        return Spot(self.scope, f"{self.location}[{index}]", self.depth)


class TooMuchError(Exception):
    """The resource has too many faults, or is nested too deeply, to go on."""


class Walk:
    """One walk through one resource.

    Parameters
    ----------
    codes_too, references_too
        Whether required bindings and reference targets are checked.

    Attributes
    ----------
    issues
        What was found wrong.
    scopes
        The resources met, the outermost first.
    """

    def __init__(self, *, codes_too: bool = True, references_too: bool = True) -> None:
        self.issues: list[Issue] = []
        self.scopes: list[Scope] = []
        self._codes_too = codes_too
        self._references_too = references_too
        self._schema = schema()

    def start(self, resource: dict[str, Any]) -> None:
        """Walk through a resource whose type is known."""
        location = str(resource["resourceType"])
        try:
            self._enter(Scope(resource, location, resource, known_references(resource)), 0)
        except TooMuchError as reason:
            self.issues.append(Issue("error", "too-costly", str(reason), (location,)))

    def _report_issue(self, spot: Spot, code: str, diagnostics: str) -> None:
        spot.scope.sound = False
        self._report(code, diagnostics, spot.location)

    def _report(self, code: str, diagnostics: str, location: str) -> None:
        if len(self.issues) >= MOST_ISSUES:
            raise TooMuchError(f"has more than {MOST_ISSUES} faults; the others are not listed")
        self.issues.append(Issue("error", code, diagnostics, (location,)))

    def _enter(self, scope: Scope, depth: int) -> None:
        self.scopes.append(scope)
        structure = self._schema.structure(scope.resource["resourceType"])
        self._object(scope.resource, structure, Spot(scope, scope.location, depth))

    def _resource(self, value: Any, spot: Spot) -> None:
        name = value.get("resourceType") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in self._schema.resource_types:
            self._report_issue(spot, "structure", "must be a resource with a resourceType of FHIR R4")
            return
        self._enter(_inner(value, spot), spot.depth)

    def _object(self, value: Any, structure: Structure, spot: Spot) -> None:
        if not isinstance(value, dict):
            self._report_issue(spot, "structure", f"must be a JSON object ({structure.name})")
            return
        if spot.depth > DEEPEST:
            raise TooMuchError(f"is nested more than {DEEPEST} levels deep")
        if structure.kind != "resource" and value.keys() <= {"id"}:
            self._report_issue(spot, "structure", "must not be empty; leave the element out (ele-1)")
            return
        present = self._members(value, structure, spot)
        for element in structure.required:
            if element.name not in present:
                self._report_issue(
                    spot.member(element.name), "required", f"{structure.name}.{element.label} is required"
                )
        if structure.rules:
            spot.scope.ruled.append(RuledElement(structure.rules, value, structure.name, spot.location))

    def _members(self, value: dict[str, Any], structure: Structure, spot: Spot) -> dict[str, str]:
        """Check the members of an object; return the JSON name under which each element is present."""
        present: dict[str, str] = {}
        for name in value:
            plain = name.removeprefix("_")
            member = structure.fields.get(plain)
            if member is None or (plain != name and member.type.code not in self._schema.primitives):
                self._unknown(name, structure, spot)
            elif plain == name or plain not in value:
                if present.setdefault(member.element.name, plain) != plain:
                    self._report_issue(spot.member(plain), "structure", "must be given in one type only")
                self._member(member, value, plain, spot.member(plain))
        return present

    def _unknown(self, name: str, structure: Structure, spot: Spot) -> None:
        if name == "resourceType" and structure.kind == "resource":
            return
        # Only a name of the usual form is quoted: hostile input may carry anything.
        is_name = NAME.fullmatch(name) is not None
        what = f"{name} is" if is_name else "it has an element whose name is"
        position = spot.member(name) if is_name else spot
        self._report_issue(position, "structure", f"{what} not an element of {structure.name} in FHIR R4")

    def _member(self, member: Field, value: dict[str, Any], name: str, spot: Spot) -> None:
        # A primitive's id and extensions are a member of their own, the name with an underscore before it.
        item = value.get(name)
        sibling = value.get(f"_{name}") if member.type.code in self._schema.primitives else None
        given = [part for part in (item, sibling) if part is not None]
        if not member.element.repeats:
            if any(isinstance(part, list) for part in given):
                self._report_issue(spot, "structure", "must be a single value, not an array")
            else:
                self._value(member, item, sibling, spot)
        elif not all(isinstance(part, list) for part in given):
            self._report_issue(spot, "structure", "must be an array")
        elif not any(given):
            self._report_issue(spot, "structure", "must not be empty or null; leave the element out")
        else:
            for index, (one, its_sibling) in enumerate(zip_longest(item or (), sibling or ())):
                self._value(member, one, its_sibling, spot.item(index))

    def _value(self, member: Field, item: Any, sibling: Any, spot: Spot) -> None:
        before = len(self.issues)
        if item is None and sibling is None:
            self._report_issue(spot, "structure", "must not be null; leave the element out")
        elif member.type.code in self._schema.primitives:
            self._primitive(member.type.code, item, sibling, spot)
        elif member.type.code == "Resource":
            self._resource(item, spot)
        else:
            self._object(item, self._schema.structure(member.type.structure), spot)
        if len(self.issues) == before and item is not None:
            self._meaning(member, item, spot)

    def _primitive(self, kind: str, item: Any, sibling: Any, spot: Spot) -> None:
        if item is not None and (complaint := primitives.find_primitive_fault(kind, item)):
            self._report_issue(spot, "value", complaint)
        if sibling is None:
            return
        has_an_id_only = isinstance(sibling, dict) and sibling.keys() == {"id"}
        if item is None or not has_an_id_only:
            self._object(sibling, self._schema.structure("Element"), spot)

    def _meaning(self, member: Field, item: Any, spot: Spot) -> None:
        """Check the meaning of a well-formed value: its code, and the target of its reference."""
        element, kind = member.element, member.type
        if element.rules:
            spot.scope.ruled.append(RuledElement(element.rules, item, kind.structure, spot.location))
        if self._codes_too and element.value_set is not None and not codes.is_member(item, element.value_set):
            self._report("code-invalid", codes.sentence(element.value_set), spot.location)
        if self._references_too and kind.targets and kind.code == "Reference":
            target = target_type(item, spot.scope.known)
            if target is not None and target not in kind.targets and "Resource" not in kind.targets:
                sentence = f"must lead to {' | '.join(sorted(kind.targets))}"
                self._report("value", sentence, spot.member("reference").location)


def _inner(resource: dict[str, Any], spot: Spot) -> Scope:
    """Return the scope of a contained resource, whose references are those of its container, or of a resource apart."""
    outer = spot.scope
    if spot.location.startswith(f"{outer.location}.contained["):
        return Scope(resource, spot.location, outer.root, outer.known)
    bundled = outer.known if outer.resource["resourceType"] == "Bundle" else {}
    return Scope(resource, spot.location, resource, ChainMap(known_references(resource), bundled))
