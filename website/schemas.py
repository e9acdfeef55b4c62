"""A JSON Schema as a page: a table of the fields for the document and for each of its definitions."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]

# What limits a value, in the words of the page (JSON Schema 2020-12, validation vocabulary).
_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "format": "format {}",
    "pattern": "pattern {}",
}
_TYPES = {"string": "text", "boolean": "true or false", "object": "mapping", "null": "null"}


def write_schema(schema: Schema) -> str:
    """Return a schema as Markdown, as pydantic writes schemas: definitions in ``$defs``, each with its properties."""
    parts = [f"# {schema['title']}\n", _describe(schema)]
    for name, definition in sorted(schema.get("$defs", {}).items()):
        parts += [f"## {name}\n", _describe(definition)]
    return "\n".join(part for part in parts if part)


def _describe(schema: Schema) -> str:
    """Return what a schema says of itself, and the table of its fields or the kinds of value that it takes."""
    paragraphs = [schema["description"] + "\n"] if "description" in schema else []
    fields = schema.get("properties")
    if not fields:
        return "\n".join([*paragraphs, f"One of: {state_type(schema)}.\n"])
    required = set(schema.get("required", ()))
    rows = [_write_row(name, field, required=name in required) for name, field in fields.items()]
    paragraphs.append("| field | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
    if schema.get("additionalProperties") is False:
        paragraphs.append("Other fields are refused.\n")
    return "\n".join(paragraphs)


def _write_row(name: str, field: Schema, *, required: bool) -> str:
    default = "**required**" if required else _code(json.dumps(field["default"])) if "default" in field else ""
    cells = (f"`{name}`", state_type(field), default, field.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def state_type(schema: Schema) -> str:
    """Return which values a schema takes, in words, with links to definitions of the same page."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(map(state_type, schema[several])))
    if "enum" in schema or "const" in schema:
        return ", ".join(_code(value) for value in schema.get("enum", [schema.get("const")]))
    return _state_plain(schema)


def _state_plain(schema: Schema) -> str:
    kind = str(schema.get("type", "any value"))
    if kind == "array":
        items = schema.get("items") or {}
        words = f"list of {state_type(items)}" if items else "list"
    elif isinstance(values := schema.get("additionalProperties"), dict):
        words = f"mapping of {state_type(values)}"
    else:
        words = _TYPES.get(kind, kind)
    limits = [text.format(_limit(schema[name])) for name, text in _LIMITS.items() if name in schema]
    return ", ".join([words, *limits])


def _limit(value: Any) -> str:
    return _code(value) if isinstance(value, str) else str(value)


def _code(value: Any) -> str:
    """Return a value as code, also if backticks are in it."""
    text = str(value)
    return f"`` {text} ``" if "`" in text else f"`{text}`"
