"""The head of a published JSON Schema, by which an editor or a catalogue names it."""

from __future__ import annotations

from typing import Any

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def with_head(schema: dict[str, Any], name: str, title: str) -> dict[str, Any]:
    """Return a schema with its draft, its identifier and a title.

    Parameters
    ----------
    schema
        As pydantic makes it.
    name
        The form that it describes, as the documents themselves name it: ``airlock.pipeline/1``.
    title
        For people.
    """
    head = {"$schema": _DRAFT, "$id": f"urn:{name.replace('.', ':').replace('/', ':')}", "title": title}
    return head | {key: value for key, value in schema.items() if key != "title"}
