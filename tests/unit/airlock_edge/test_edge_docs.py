"""docs/edge.md names every setting with its default, every metric and every alarm; its example loads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from airlock_edge.commitment.settings import Commitment
from airlock_edge.metrics import PREFIX
from airlock_edge.settings import Book, Destination, Edge, Listen, Manifests, Peer, Spool, Tls, load_settings
from tests.markdown import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs/edge.md").read_text(encoding="utf-8")
SECTIONS = {
    "The file": Edge,
    "`listen`": Listen,
    "`listen.tls`": Tls,
    "`peers[]`": Peer,
    "`destination`": Destination,
    "`spool`": Spool,
    "`manifests`": Manifests,
    "`book`": Book,
    "`commitment`": Commitment,
}
CODE = "".join(path.read_text() for path in sorted((ROOT / "include/airlock_edge").rglob("*.py")))


def rows_of(title: str) -> dict[str, list[str]]:
    """Return the cells of each row of a section, by the name in the first."""
    section = PAGE.split(f"\n### {title}\n")[1].split("\n#")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if "`" in line]
    return {row[0].strip("` "): row for row in cells}


def spell(default: Any) -> str:
    if default is PydanticUndefined:
        return "**required**"
    if default is None or isinstance(default, bool):
        return f"`{str(default).lower()}`".replace("none", "null")
    return "`[]`" if default == () else f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


@pytest.mark.parametrize("title", SECTIONS)
def test_a_section_has_a_row_for_each_field_and_no_other(title):
    fields = {field.alias or name: field for name, field in SECTIONS[title].model_fields.items()}
    rows = rows_of(title)
    assert rows.keys() == fields.keys()
    for name, field in fields.items():
        _, _, default, text = rows[name]
        assert field.default_factory is not None or default == spell(field.default), name
        assert text == (field.description or "see below"), name


def test_the_page_has_every_metric_and_no_other():
    written = set(re.findall(r'(?:count|put)\(\s*"([a-z_]+)"', CODE)) | set(
        re.findall(r'"((?:spool|disk)_[a-z_]+)": ', CODE)
    )
    named = {name.removeprefix(PREFIX) for name in re.findall(rf"`({PREFIX}\w+)`", PAGE)}
    assert named == written


def test_the_page_has_every_alarm():
    raised = re.findall(r'self\._alarm\("(\w+)"', CODE)
    assert set(
        re.findall(r"^\| `(\w+)` \| .* \| .* \|$", PAGE.split("| alarm |")[1].split("\n## ")[0], re.MULTILINE)
    ) == set(raised)


def test_the_smallest_file_of_the_page_loads(tmp_path: Path):
    example = PAGE.split("The smallest settings file:\n")[1].split("\nCredentials")[0]
    path = tmp_path / "edge.yaml"
    path.write_text(re.sub("^    ", "", example, flags=re.MULTILINE))
    assert load_settings(path).store == "s3"


def test_the_file_that_ships_loads():
    path = ROOT / "deploy/edge/edge.yaml"
    assert load_settings(path).listen.tls is not None
    assert yaml.safe_load(path.read_text())["schema"] == "airlock.edge/1"
