"""The search index of a resource: rows of text, moments and numbers for each of its search parameters.

A stored resource may break every rule of FHIR (validation level ``minimal``): a value without the form of its type
is not found, and nothing here raises.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from localaws.healthlake.search_parameters import resource_types
from localaws.healthlake.search_values import EVER, plain_reference, read_moments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from localaws.healthlake.search_parameters import Parameter, Step

Row = tuple[str, str | None, str | None, float | None, float | None]
"""Parameter, system, value, and the range of moments or numbers that the value stands for."""

Text = tuple[str, str | None, str]
"""The modifier of the parameter, the system and the value."""

COLUMNS = frozenset({"_id", "_lastUpdated"})
"""Parameters that are columns of their own."""

NAME_PARTS = ("text", "family", "given", "prefix", "suffix")
ADDRESS_PARTS = ("text", "line", "city", "district", "state", "postalCode", "country")


def rows_of(resource: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of one resource."""
    known = resource_types().get(resource["resourceType"])
    for parameter in known.parameters.values() if known else ():
        is_possible = not parameter.needs or not parameter.needs.isdisjoint(resource)
        if is_possible and parameter.code not in COLUMNS:
            yield from _rows(parameter, resource)


def _rows(parameter: Parameter, resource: dict[str, Any]) -> Iterator[Row]:
    read, is_found = KINDS.get(parameter.kind), False
    for path in parameter.paths if read else ():
        for value in values_at(resource, path.steps):
            for suffix, *row in read(path.type, value) if read else ():
                if path.target is None or str(row[1]).startswith(f"{path.target}/"):
                    is_found = True
                    yield (f"{parameter.code}{suffix}", *row)
    if not is_found and any(path.type == "exists" for path in parameter.paths):
        yield parameter.code, None, "false", None, None


def values_at(value: Any, steps: tuple[Step, ...]) -> Iterator[Any]:
    """Yield the values that a path leads to; lists on the way are gone through (R4 has no list in a list)."""
    if not steps:
        yield value
    elif isinstance(value, dict) and steps[0].key in value:
        step = steps[0]
        for item in _each(value[step.key]):
            if step.name is None or _object(item).get(step.name) == step.equals:
                yield from values_at(item, steps[1:])


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    """Return a text that SQLite takes, None for anything else and for an empty one."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None


def _tokens(kind: str, value: Any) -> Iterator[tuple[str, str | None, str | None, None, None]]:
    for suffix, system, text in TOKENS.get(kind, _code)(value):
        yield suffix, system, text, None, None


def _code(value: Any) -> Iterator[Text]:
    if text := _text(value):
        yield "", None, text


def _boolean(value: Any) -> Iterator[Text]:
    if isinstance(value, bool):
        yield "", None, "true" if value else "false"


def _exists(_value: Any) -> Iterator[Text]:
    yield "", None, "true"


def _coding(value: Any) -> Iterator[Text]:
    coding = _object(value)
    if code := _text(coding.get("code")):
        yield "", _text(coding.get("system")), code
    if display := _text(coding.get("display")):
        yield ":text", None, display


def _concept(value: Any) -> Iterator[Text]:
    for coding in _each(_object(value).get("coding", [])):
        yield from _coding(coding)
    if text := _text(_object(value).get("text")):
        yield ":text", None, text


def _identifier(value: Any) -> Iterator[Text]:
    identifier = _object(value)
    if text := _text(identifier.get("value")):
        yield "", _text(identifier.get("system")), text
    for suffix, _, text in _concept(identifier.get("type")):
        if suffix:
            yield suffix, None, text


def _contact(value: Any) -> Iterator[Text]:
    yield from _code(_object(value).get("value"))


TOKENS: dict[str, Callable[[Any], Iterator[Text]]] = {
    "Coding": _coding,
    "CodeableConcept": _concept,
    "Identifier": _identifier,
    "ContactPoint": _contact,
    "boolean": _boolean,
    "exists": _exists,
}


def _references(kind: str, value: Any) -> Iterator[tuple[str, str | None, str | None, None, None]]:
    if kind != "Reference":
        yield from _uris(kind, value)
        return
    if text := _text(_object(value).get("reference")):
        yield "", None, plain_reference(text), None, None
    for suffix, system, text in _identifier(_object(value).get("identifier")):
        if not suffix:
            yield ":identifier", system, text, None, None


def _uris(_kind: str, value: Any) -> Iterator[tuple[str, str | None, str | None, None, None]]:
    if text := _text(value):
        yield "", None, text, None, None
        url, bar, _ = text.partition("|")
        if bar:
            yield "", None, url, None, None


def _strings(kind: str, value: Any) -> Iterator[tuple[str, str | None, str | None, None, None]]:
    parts = {"HumanName": NAME_PARTS, "Address": ADDRESS_PARTS}.get(kind)
    found = [value] if parts is None else [item for part in parts for item in _each(_object(value).get(part))]
    for item in found:
        if text := _text(item):
            yield "", None, text, None, None


def _dates(kind: str, value: Any) -> Iterator[tuple[str, None, None, float, float]]:
    if kind == "Period":
        start, end = (read_moments(_text(_object(value).get(name)) or "") for name in ("start", "end"))
        if start or end:
            yield "", None, None, (start or EVER)[0], (end or EVER)[1]
    elif kind == "Timing":
        for event in _each(_object(value).get("event", [])):
            yield from _dates("dateTime", event)
    elif span := read_moments(_text(value) or ""):
        yield "", None, None, *span


def _quantities(kind: str, value: Any) -> Iterator[tuple[str, str | None, str | None, float, float]]:
    quantity = _object(value)
    if kind == "Range":
        bounds = [_number(_object(quantity.get(name)).get("value")) for name in ("low", "high")]
        if any(bound is not None for bound in bounds):
            low, high = (ever if bound is None else bound for bound, ever in zip(bounds, EVER, strict=True))
            yield "", None, None, low, high
    elif (number := _number(quantity.get("value"))) is not None:
        code, unit = _text(quantity.get("code")), _text(quantity.get("unit"))
        yield "", _text(quantity.get("system")), code or _text(quantity.get("currency")), number, number
        if unit and unit != code:
            yield "", None, unit, number, number


def _numbers(kind: str, value: Any) -> Iterator[tuple[str, str | None, str | None, float, float]]:
    if kind == "Range":
        yield from _quantities(kind, value)
    elif (number := _number(value)) is not None:
        yield "", None, None, number, number


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


KINDS: dict[str, Callable[[str, Any], Iterator[Any]]] = {
    "token": _tokens,
    "reference": _references,
    "uri": _uris,
    "string": _strings,
    "date": _dates,
    "quantity": _quantities,
    "number": _numbers,
}
"""How the values of each kind of parameter are read; composite and special ones are not emulated."""
