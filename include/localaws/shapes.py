"""Values against botocore shapes: read from the wire, check, write to the wire."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import TYPE_CHECKING, Any

import regex
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NUMBERS: dict[str, type[int] | type[float]] = {"integer": int, "long": int, "float": float, "double": float}
BOOLEANS = {"true": True, "false": False}


def problems(shape: Shape, value: Any, path: str = "$") -> Iterator[str]:
    """Yield the faults of `value` according to `shape`; the texts name members and rules, never values.

    Unknown members of a structure pass, as AWS lets them pass.
    """
    check = CHECKS.get(shape.type_name)
    if check is not None:
        yield from check(shape, value, path)


def unknown_members(shape: Shape, value: Any, path: str = "$") -> Iterator[str]:
    """Yield the members of `value` that the model does not have (botocore would drop them silently)."""
    if isinstance(shape, StructureShape):
        for name, item in value.items():
            if name not in shape.members:
                yield f"{path}.{name}: is not in the model"
            else:
                yield from unknown_members(shape.members[name], item, f"{path}.{name}")
    elif isinstance(shape, ListShape):
        for index, item in enumerate(value):
            yield from unknown_members(shape.member, item, f"{path}[{index}]")


def _structure(shape: StructureShape, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: must be an object"
        return
    for name in shape.required_members:
        if name not in value:
            yield f"{path}.{name}: is required"
    if shape.is_tagged_union and len(value.keys() & shape.members.keys()) != 1:
        yield f"{path}: exactly one member must be set"
    for name, item in value.items():
        if name in shape.members:
            yield from problems(shape.members[name], item, f"{path}.{name}")


def _list(shape: ListShape, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{path}: must be a list"
        return
    yield from _limits(shape, len(value), path, "size")
    for index, item in enumerate(value):
        yield from problems(shape.member, item, f"{path}[{index}]")


def _map(shape: MapShape, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: must be a map"
        return
    yield from _limits(shape, len(value), path, "size")
    for key, item in value.items():
        yield from problems(shape.key, key, f"{path} key")
        yield from problems(shape.value, item, f"{path} value")


def _string(shape: StringShape, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{path}: must be a string"
        return
    yield from _limits(shape, len(value), path, "length")
    if shape.enum and value not in shape.enum:
        yield f"{path}: must be one of {', '.join(shape.enum)}"
    pattern = shape.metadata.get("pattern")
    # The models use \p{ASCII} and the like, and write whole-string patterns without anchors.
    if pattern and not regex.fullmatch(pattern, value):
        yield f"{path}: must satisfy the pattern {pattern}"


def _number(shape: Shape, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, NUMBERS[shape.type_name] | int):
        yield f"{path}: must be a number ({shape.type_name})"
    else:
        yield from _limits(shape, value, path, "value")


def _boolean(_shape: Shape, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, bool):
        yield f"{path}: must be true or false"


def _timestamp(_shape: Shape, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{path}: must be a timestamp"


def _blob(shape: Shape, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, bytes):
        yield f"{path}: must be base64-encoded bytes"
    else:
        yield from _limits(shape, len(value), path, "length")


CHECKS: dict[str, Callable[[Any, Any, str], Iterator[str]]] = {
    "structure": _structure,
    "list": _list,
    "map": _map,
    "string": _string,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "blob": _blob,
    **dict.fromkeys(NUMBERS, _number),
}


def _limits(shape: Shape, number: float, path: str, what: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if (low is not None and number < low) or (high is not None and number > high):
        yield f"{path}: {what} must be between {low} and {high}"


def from_text(shape: Shape, value: Any) -> Any:
    """Convert a path, query or header text; text that cannot be converted stays, so that validation reports it."""
    if shape.type_name in NUMBERS:
        try:
            return NUMBERS[shape.type_name](value)
        except ValueError:
            return value
    if shape.type_name == "boolean":
        return BOOLEANS.get(value, value)
    return value


def from_json(shape: Shape, value: Any) -> Any:
    """Convert a value of a JSON body: timestamps to epoch seconds, blobs to bytes; unfit values stay as they are."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        members = {member.serialization.get("name", name): (name, member) for name, member in shape.members.items()}
        return {
            members[key][0]: from_json(members[key][1], item)
            for key, item in value.items()
            if key in members and item is not None
        }
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [from_json(shape.member, item) for item in value]
    if shape.type_name == "timestamp" and isinstance(value, str):
        return _epoch(value)
    if shape.type_name == "blob" and isinstance(value, str):
        return _decoded(value)
    return value


def _epoch(text: str) -> Any:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return text


def _decoded(text: str) -> Any:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return text


def to_json(shape: Shape, value: Any) -> Any:
    """Convert a handler's value to the JSON body; members that travel in headers are left out."""
    if isinstance(shape, StructureShape):
        return {
            member.serialization.get("name", name): to_json(member, value[name])
            for name, member in shape.members.items()
            if name in value and "location" not in member.serialization
        }
    if isinstance(shape, ListShape):
        return [to_json(shape.member, item) for item in value]
    if shape.type_name == "blob":
        return base64.b64encode(value).decode()
    return value


def drop_none(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return `value` without the members that are None: an absent member and a null one mean the same to AWS."""
    return {name: item for name, item in value.items() if item is not None}
