"""docs/pipelines.md names every field of a pipeline file, of whatever kind, with its description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airlock.pipelines import json_schema

PAGE = (Path(__file__).parents[3] / "docs/pipelines.md").read_text(encoding="utf-8")
FIELDS: dict[str, dict[str, Any]] = {
    f"{part}.{name}": field
    for part, definition in json_schema()["$defs"].items()
    for name, field in definition.get("properties", {}).items()
}


def test_all_kinds_are_there() -> None:
    assert {part.partition(".")[0] for part in FIELDS} >= {"ImagingPipeline", "ClinicalPipeline", "CcdaPipeline"}


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_field_is_in_the_page_as_it_describes_itself(name: str) -> None:
    field = f"`{name.partition('.')[2]}`"
    rows = [line for line in PAGE.splitlines() if field in line]
    assert rows
    described = FIELDS[name].get("description", "")
    assert any(described in row for row in rows)
