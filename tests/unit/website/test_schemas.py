"""A schema's page says of each field what it takes, what it is without one, and what it means."""

from __future__ import annotations

from typing import Any

import pytest
from website.schemas import state_type, write_schema

from airlock.pipelines import json_schema

SCHEMA = {
    "title": "A document",
    "description": "One document.",
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^(a|b)$", "description": "a or b"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}, "default": []},
    },
    "$defs": {"Part": {"type": "object", "properties": {"size": {"type": "integer", "minimum": 0}}}},
}


def test_a_field_is_a_row() -> None:
    lines = write_schema(SCHEMA).splitlines()
    assert lines[0] == "# A document"
    assert r"| `name` | text, pattern `^(a\|b)$` | **required** | a or b |" in lines
    assert "| `parts` | list of [Part](#part) | `[]` |  |" in lines
    assert "Other fields are refused." in lines


def test_a_definition_has_a_section_that_fields_link_to() -> None:
    text = write_schema(SCHEMA)
    assert "## Part" in text
    assert "| `size` | integer, at least 0 |  |  |" in text


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"enum": ["copy", "in_place"]}, "`copy`, `in_place`"),
        ({"const": "airlock.plan/1"}, "`airlock.plan/1`"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "text or null"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "mapping of integer"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number, at most 1, above 0"),
        ({"type": "string", "pattern": "^`$"}, "text, pattern `` ^`$ ``"),
        ({}, "any value"),
    ],
)
def test_a_type_is_said_in_words(schema: dict[str, Any], words: str) -> None:
    assert sorted(state_type(schema).split(", ")) == sorted(words.split(", "))


def test_every_field_of_a_pipeline_file_is_on_its_page() -> None:
    schema = json_schema()
    text = write_schema(schema)
    fields = {name for part in schema["$defs"].values() for name in part.get("properties", {})}
    assert len(fields) > 100
    assert [name for name in sorted(fields) if f"| `{name}` |" not in text] == []
