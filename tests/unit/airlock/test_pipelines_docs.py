"""docs/pipelines.md names every field of a pipeline file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airlock.pipelines import json_schema

PAGE = (Path(__file__).parents[3] / "docs/pipelines.md").read_text(encoding="utf-8")
SCHEMA = json_schema()


def _fields(schema: dict[str, Any]) -> list[str]:
    return [*schema["properties"], *(name for part in SCHEMA["$defs"].values() for name in part.get("properties", ()))]


@pytest.mark.parametrize("field", sorted(set(_fields(SCHEMA))))
def test_field_is_in_the_page(field: str) -> None:
    assert f"`{field}`" in PAGE
