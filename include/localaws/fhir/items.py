"""The elements of a resource as profiles look at them: a value with its type and its location."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from localaws.fhir.schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localaws.fhir.schema import Field


@dataclass(frozen=True, slots=True)
class Item:
    """One value.

    Attributes
    ----------
    value
        The value; None for a primitive that has extensions only.
    members
        The object whose members are the value's elements: the value itself, or a primitive's id and extensions.
    code, structure
        Its type, and the structure that defines its elements.
    location
        Where it is.
    """

    value: Any
    members: dict[str, Any]
    code: str
    structure: str
    location: str

    def children(self, label: str) -> list[Item]:
        """Return the values of one element; the label of a choice ends in ``[x]``."""
        fields = schema().structure(self.structure).fields
        if not label.endswith("[x]"):
            return list(self._children(label, fields[label])) if label in fields else []
        named = ((name, member) for name, member in fields.items() if member.element.label == label)
        return [item for name, member in named for item in self._children(name, member)]

    def _children(self, name: str, member: Field) -> Iterator[Item]:
        value, sibling = self.members.get(name), self.members.get(f"_{name}")
        location = f"{self.location}.{name}"
        if isinstance(value, list) or isinstance(sibling, list):
            pairs = zip_longest(_list(value), _list(sibling))
            for index, (one, its_sibling) in enumerate(pairs):
                yield _item(one, its_sibling, member, f"{location}[{index}]")
        elif value is not None or sibling is not None:
            yield _item(value, sibling, member, location)


def resource_item(resource: dict[str, Any], location: str) -> Item:
    """Return a resource as an item."""
    name = resource["resourceType"]
    return Item(resource, resource, name, name, location)


def _item(value: Any, sibling: Any, member: Field, location: str) -> Item:
    code, structure = member.type.code, member.type.structure
    if code in schema().primitives:
        return Item(value, _object(sibling), code, "Element", location)
    members = _object(value)
    name = members.get("resourceType")
    if code == "Resource" and isinstance(name, str) and name in schema().resource_types:
        code = structure = name
    return Item(value, members, code, structure, location)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
