"""Search parameters as SQL: one condition per parameter, over the rows of ``search_index``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from localaws.healthlake.exchange import bad_request, not_emulated
from localaws.healthlake.search_parameters import resource_types
from localaws.healthlake.search_sql import Sql, compare_spans
from localaws.healthlake.search_values import plain_reference, read_moments, read_numbers, split_prefix

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from localaws.healthlake.search_parameters import Parameter, ResourceType
    from localaws.healthlake.search_sql import Scope
    from localaws.healthlake.search_values import Span

MOST_CHAINED = 100
MOST_VALUES = 500
"""Conditions of one search; SQLite takes no expression that is much deeper."""
MODIFIERS: dict[str, frozenset[str]] = {
    "string": frozenset({"exact", "contains", "missing"}),
    "token": frozenset({"not", "text", "missing"}),
    "reference": frozenset({"identifier", "missing"}),
    "uri": frozenset({"below", "missing"}),
    "date": frozenset({"missing"}),
    "number": frozenset({"missing"}),
    "quantity": frozenset({"missing"}),
}
"""Those of HealthLake, by kind of parameter; a reference also takes a resource type."""

TIMES = {"_lastUpdated": "updated_at", "createdAt": "created_at"}
"""Parameters that look at when a version or the resource itself was made."""

ALTERNATIVES = re.compile(r"((?:[^,\\]|\\.)*)(?:,|$)")
BAR = re.compile(r"(?<!\\)\|")
ESCAPED = re.compile(r"\\([,|$\\])")


class Conditions:
    """Turns the parameters of one search into conditions on ``fhir_version``."""

    def __init__(self, connection: sqlite3.Connection, scope: Scope) -> None:
        self._connection = connection
        self._scope = scope

    def matching(self, resource_type: str, pairs: Iterable[tuple[str, str]]) -> Sql:
        """Return the condition for resources that all parameters find.

        Raises
        ------
        FhirError
            400: an unknown parameter, modifier or value; 501: a kind of parameter that is not emulated.
        """
        return Sql.all_of(_check_number([self._condition(resource_type, name, text) for name, text in pairs]))

    def _condition(self, resource_type: str, name: str, text: str) -> Sql:
        if name.startswith("_has:"):
            return self._reverse_chain(resource_type, name, text)
        first, dot, rest = name.partition(".")
        code, _, modifier = first.partition(":")
        if dot:
            return self._chain(resource_type, code, modifier, (rest, text))
        if code in TIMES or code == "_id":
            return _column(code, modifier, text)
        parameter = find_parameter(resource_type, code)
        if parameter.kind not in MODIFIERS:
            raise not_emulated(f"The search parameter {code} ({parameter.kind})")
        if modifier == "missing":
            return _missing(parameter, text)
        return _rows(parameter, modifier, text)

    def _chain(self, resource_type: str, code: str, modifier: str, rest: tuple[str, str]) -> Sql:
        """Return the condition of ``subject:Patient.name=peter``: a reference to a resource that the rest finds."""
        parameter = find_reference_parameter(resource_type, code)
        targets = _targets(parameter, modifier)
        capable = [target for target in targets if modifier or _has_parameter(target, rest[0])]
        if not capable:
            raise bad_request(f"No resource type that {code} refers to can be searched like that.", "not-supported")
        references = [found for target in capable for found in self._references(target, rest)]
        return Sql.one_of("value", references).found_by(code)

    def _reverse_chain(self, resource_type: str, name: str, text: str) -> Sql:
        """Return the condition of ``_has:Observation:patient:code=1234-5``: a target of what the rest finds."""
        parts = name.split(":", 3)
        if len(parts) != 4 or parts[1] not in resource_types():
            raise bad_request("_has is written _has:<type>:<reference parameter>:<parameter>.")
        find_reference_parameter(parts[1], parts[2])
        where = Sql.all_of([self._scope.of(parts[1]), self.matching(parts[1], [(parts[3], text)])])
        query = (
            "SELECT DISTINCT value FROM fhir_search WHERE parameter = ? AND number IN "  # noqa: S608 - our own text
            f"(SELECT number FROM fhir_version WHERE {where.text}) LIMIT ?"
        )
        rows = self._connection.execute(query, (parts[2], *where.values, MOST_CHAINED + 1)).fetchall()
        prefix = f"{resource_type}/"
        names = [row["value"] for row in _check_rows(rows)]
        return Sql.one_of("id", [name.removeprefix(prefix) for name in names if name.startswith(prefix)])

    def _references(self, resource_type: str, rest: tuple[str, str]) -> list[str]:
        where = Sql.all_of([self._scope.of(resource_type), self.matching(resource_type, [rest])])
        query = f"SELECT id FROM fhir_version WHERE {where.text} LIMIT ?"  # noqa: S608 - our own text
        rows = self._connection.execute(query, (*where.values, MOST_CHAINED + 1)).fetchall()
        return [f"{resource_type}/{row['id']}" for row in _check_rows(rows)]


def _check_number(conditions: list[Sql]) -> list[Sql]:
    if len(conditions) > MOST_VALUES:
        raise bad_request(f"A search takes up to {MOST_VALUES} parameters, and as many values of one.", "too-costly")
    return conditions


def _check_rows(rows: list[sqlite3.Row]) -> list[sqlite3.Row]:
    if len(rows) > MOST_CHAINED:
        raise bad_request(f"A level of the chain finds more than {MOST_CHAINED} resources; narrow it.", "too-costly")
    return rows


def find_type(resource_type: str) -> ResourceType:
    """Return the search parameters and elements of a type.

    Raises
    ------
    FhirError
        400: R4 has no such type.
    """
    known = resource_types().get(resource_type)
    if known is None:
        raise bad_request("A parameter names a resource type that R4 does not have.", "not-supported")
    return known


def find_parameter(resource_type: str, code: str) -> Parameter:
    """Return a search parameter of a type.

    Raises
    ------
    FhirError
        400: the type has no such parameter.
    """
    parameter = find_type(resource_type).parameters.get(code)
    if parameter is None:
        shown = code if re.fullmatch(r"[\w\-]{1,64}", code, re.ASCII) else "(not a parameter's name)"
        raise bad_request(f"{resource_type} has no search parameter {shown}.", "not-supported")
    return parameter


def find_reference_parameter(resource_type: str, code: str) -> Parameter:
    """Return a search parameter that looks at references.

    Raises
    ------
    FhirError
        400: it is another kind of parameter, or none.
    """
    parameter = find_parameter(resource_type, code)
    if parameter.kind != "reference":
        raise bad_request(f"The search parameter {code} of {resource_type} is not a reference.", "not-supported")
    return parameter


def _has_parameter(resource_type: str, name: str) -> bool:
    code = re.split("[:.]", name)[0]
    known = resource_types().get(resource_type)
    return name.startswith("_has:") or code in TIMES or (known is not None and code in known.parameters)


def _targets(parameter: Parameter, modifier: str) -> tuple[str, ...]:
    if not modifier:
        return parameter.targets
    if modifier not in parameter.targets:
        raise bad_request(f"{parameter.code} does not refer to resources of the type after the colon.")
    return (modifier,)


def _column(code: str, modifier: str, text: str) -> Sql:
    if modifier:
        raise bad_request(f"{code} takes no modifier.", "not-supported")
    if code == "_id":
        return Sql.one_of("id", alternatives(text))
    low = f"CAST(round({TIMES[code]} * 1000) AS INTEGER)"
    spans = [_asked(code, "date", item) for item in alternatives(text)]
    return Sql.any_of(_check_number([compare_spans(*span, low, f"({low} + 1)") for span in spans]))


def _missing(parameter: Parameter, text: str) -> Sql:
    if text not in {"true", "false"}:
        raise bad_request(f"{parameter.code}:missing must be true or false.")
    has_value = Sql("1").found_by(parameter.code)
    return has_value.inverted() if text == "true" else has_value


def _rows(parameter: Parameter, modifier: str, text: str) -> Sql:
    is_type = parameter.kind == "reference" and modifier in parameter.targets
    if modifier and not is_type and modifier not in MODIFIERS[parameter.kind]:
        raise bad_request(f"The modifier of {parameter.code} is not supported.", "not-supported")
    matched = Sql.any_of(_check_number([_matched(parameter, modifier, item) for item in alternatives(text)]))
    row = f"{parameter.code}:{modifier}" if modifier in {"text", "identifier"} else parameter.code
    found = matched.found_by(row)
    return found.inverted() if modifier == "not" else found


def alternatives(text: str) -> list[str]:
    """Split a value at its commas, but not at escaped ones."""
    return ALTERNATIVES.findall(text)[:-1] if text else [""]


def _plain(text: str) -> str:
    return ESCAPED.sub(r"\1", text)


def _matched(parameter: Parameter, modifier: str, text: str) -> Sql:
    if not text:
        raise bad_request(f"The search parameter {parameter.code} has an empty value.")
    if parameter.kind == "token" or modifier == "identifier":
        return _begins_with(text) if modifier == "text" else _token(text)
    if parameter.kind == "string":
        return {"exact": _equal, "contains": _contains}.get(modifier, _begins_with)(text)
    if parameter.kind == "reference":
        return _reference(parameter, modifier, _plain(text))
    if parameter.kind == "uri":
        return _below(text) if modifier == "below" else _equal(text)
    if parameter.kind == "quantity":
        return _quantity(parameter, text)
    return compare_spans(*_asked(parameter.code, parameter.kind, text))


def _equal(text: str) -> Sql:
    return Sql("value = ?", (_plain(text),))


def _begins_with(text: str) -> Sql:
    return Sql("substr(value, 1, length(?)) = ?", (_plain(text), _plain(text)))


def _contains(text: str) -> Sql:
    return Sql("instr(value, ?) > 0", (_plain(text),))


def _below(text: str) -> Sql:
    return Sql.any_of([_equal(text), _begins_with(text.rstrip("/") + "/")])


def _token(text: str) -> Sql:
    parts = [_plain(part) for part in BAR.split(text, maxsplit=1)]
    if len(parts) == 1:
        return Sql("value = ?", (parts[0],))
    system, code = parts
    if not code:
        return Sql("system = ?", (system,))
    return Sql("coalesce(system, '') = ? AND value = ?", (system, code))


def _reference(parameter: Parameter, modifier: str, text: str) -> Sql:
    plain = plain_reference(text)
    if "/" in plain or ":" in plain:
        return Sql("value = ?", (plain,))
    return Sql.one_of("value", [f"{target}/{plain}" for target in _targets(parameter, modifier)])


def _quantity(parameter: Parameter, text: str) -> Sql:
    number, *unit = (_plain(part) for part in BAR.split(text))
    asked = compare_spans(*_asked(parameter.code, "number", number))
    if not any(unit):
        return asked
    if len(unit) != 2:
        raise bad_request(f"{parameter.code} is written <number>|<system>|<code>.")
    same_system = [Sql("system = ?", (unit[0],))] if unit[0] else []
    return Sql.all_of([asked, Sql("value = ?", (unit[1],)), *same_system])


def _asked(code: str, kind: str, text: str) -> tuple[str, Span]:
    """Return the prefix and the range of a value."""
    prefix, value = split_prefix(text)
    span = read_moments(value) if kind == "date" else read_numbers(value, exact=prefix not in {"eq", "ne"})
    if span is None:
        raise bad_request(f"The value of {code} must be a {kind}, after a prefix like eq or ge if need be.")
    return prefix, span
