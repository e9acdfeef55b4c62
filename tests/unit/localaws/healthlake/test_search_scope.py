"""All that HealthLake's search supports here. It is frozen: whoever changes a list below decides to maintain more."""

from __future__ import annotations

from localaws.healthlake.routes import ROUTES
from localaws.healthlake.search_conditions import MODIFIERS, TIMES
from localaws.healthlake.search_parameters import resource_types
from localaws.healthlake.search_request import CONTROLS, FORMATS, SUMMARIES
from localaws.healthlake.search_values import PREFIXES


def test_the_kinds_of_parameters_and_their_modifiers() -> None:
    assert {kind: " ".join(sorted(modifiers)) for kind, modifiers in MODIFIERS.items()} == {
        "date": "missing",
        "number": "missing",
        "quantity": "missing",
        "reference": "identifier missing",
        "string": "contains exact missing",
        "token": "missing not text",
        "uri": "below missing",
    }


def test_the_prefixes_of_ordered_values() -> None:
    assert PREFIXES == ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb")


def test_the_parameters_that_are_no_criteria() -> None:
    assert sorted(CONTROLS) == [
        *("_count", "_elements", "_format", "_include", "_pretty", "_revinclude", "_sort", "_summary", "_total"),
        "page",
    ]
    assert sorted(SUMMARIES) == ["data", "false", "text", "true"]
    assert sorted(FORMATS) == ["application/fhir+json", "application/json", "json"]
    assert sorted(TIMES) == ["_lastUpdated", "createdAt"]


def test_the_shipped_search_parameters() -> None:
    known = resource_types()
    assert (len(known), sum(len(item.parameters) for item in known.values())) == (147, 2574)


def test_the_interactions() -> None:
    assert sorted({route.interaction for route in ROUTES}) == [
        *("bundle", "capabilities", "conditional_update", "create", "delete", "history", "poll", "read"),
        *("read_version", "search", "update", "validate"),
    ]
