"""docs/pipelines.md names every field of a pipeline file, of whatever kind; every YAML block of a page loads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airlock.pipelines import PipelineError, json_schema, load_pipeline
from tests.markdown import PAGES, ROOT, Block, blocks

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
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


def _as_yaml(block: Block) -> Any:
    try:
        return yaml.safe_load(block.text)
    except yaml.YAMLError:
        return None


SHIPPED = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "include/pipelines").glob("*.yaml")}
SECTIONS = {name.partition(".")[2] for name in FIELDS if "Pipeline." in name}
# Blocks marked as YAML, and unmarked blocks that hold nothing but sections of a pipeline file.
YAML = [
    block
    for page in PAGES
    for block in blocks(page)
    if block.language == "yaml"
    or (isinstance(content := _as_yaml(block), dict) and {str(name) for name in content} <= SECTIONS)
]


def test_the_yaml_of_these_pages_is_found() -> None:
    names = (
        "arrivals",
        "edge-commitment",
        "one-patient",
        "pipelines",
        "planning",
        "review",
        "routing",
        "stow",
        "sweep",
    )
    assert {block.page for block in YAML} == {f"docs/{name}.md" for name in names}


@pytest.mark.parametrize("block", YAML, ids=str)
def test_a_yaml_block_loads_as_a_pipeline_file_or_as_its_sections(block: Block, tmp_path: Path) -> None:
    """Sections are those of a pipeline that ships, of whichever kind has them."""
    content = yaml.safe_load(block.text)
    whole = {"page": content} if "kind" in content else {name: _with(base, content) for name, base in SHIPPED.items()}
    problems = []
    for name, pipeline in whole.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(pipeline))
        try:
            load_pipeline(path)
        except PipelineError as error:
            problems.append(str(error))
    assert len(problems) < len(whole), problems


def _with(pipeline: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Return a pipeline with other sections; a field that a section does not give stays."""
    merged = {
        name: pipeline[name] | value if isinstance(value, dict) and name in pipeline else value
        for name, value in sections.items()
    }
    return pipeline | merged


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_names_its_schema_for_editors(name: str) -> None:
    path = ROOT / f"include/pipelines/{name}.yaml"
    first = path.read_text(encoding="utf-8").splitlines()[0]
    mark, _, schema = first.partition("$schema=")
    assert mark == "# yaml-language-server: "
    assert (path.parent / schema).resolve() == ROOT / "docs/pipeline.schema.json"


@pytest.mark.parametrize("name", ["pipeline", "study-contract", "clinical-contract", "plan"])
def test_a_published_schema_says_what_it_is(name: str) -> None:
    schema = json.loads((ROOT / f"docs/{name}.schema.json").read_text(encoding="utf-8"))
    assert schema["$schema"].endswith("/2020-12/schema")
    assert schema["$id"].startswith("urn:airlock:")
    assert " " in schema["title"]
