"""The README and docs/index.md lead to every page, no link is broken, and CONTRIBUTING.md names what exists."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from airlock.reasons import SENTENCES
from tests.markdown import DOCS, PAGES, ROOT, anchors, links

INDEX = "docs/index.md"
DECISIONS = "docs/decisions/index.md"
LINKED_FROM = (
    *PAGES,
    *sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("[CS]*.md"), *ROOT.glob("iam/*.md"))),
)


def linked_pages(page: str) -> set[str]:
    return {path for path, _ in links(page)}


def test_the_readme_links_to_the_index() -> None:
    assert INDEX in linked_pages("README.md")


def test_the_index_has_its_parts_in_the_order_in_which_they_are_read() -> None:
    parts = [line for line in (ROOT / INDEX).read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert parts == ["## Getting started", "## Guides", "## Reference", "## Explanation"]


def test_the_index_links_to_every_page_of_docs() -> None:
    assert {page for page in DOCS if page.count("/") == 1} - linked_pages(INDEX) - {INDEX} == set()


def test_every_folder_of_docs_has_an_index_that_links_to_its_pages() -> None:
    for page in DOCS:
        folder, _, name = page.rpartition("/")
        index = f"{folder}/index.md"
        assert name == "index.md" or page in linked_pages(index), f"{index} does not link to {page}"
        assert INDEX in (page, index) or index in linked_pages(INDEX), f"{INDEX} does not link to {index}"


@pytest.mark.parametrize("page", LINKED_FROM)
def test_every_relative_link_and_anchor_resolves(page: str) -> None:
    for path, anchor in links(page):
        assert (ROOT / path).exists(), f"{page} links to {path}, which does not exist"
        if anchor:
            assert anchor in anchors(path), f"{page} links to {path}#{anchor}, which has no such heading"


def test_the_loop_of_schemas_writes_every_published_schema() -> None:
    (loop,) = re.findall(r"for name in (.+); do", (ROOT / "docs/schemas.md").read_text(encoding="utf-8"))
    named = dict(pair.split(":")[::-1] for pair in loop.split())
    assert named.keys() == {path.name.removesuffix(".schema.json") for path in (ROOT / "docs").glob("*.schema.json")}
    for name, module in named.items():
        schema = importlib.import_module(f"airlock.{module}").json_schema()
        assert json.loads((ROOT / f"docs/{name}.schema.json").read_text(encoding="utf-8")) == schema, name


@pytest.mark.parametrize("page", ["README.md", "docs/planning.md"])
def test_the_sentences_of_reasons_that_a_page_shows_are_those_of_the_code(page: str) -> None:
    row = r"^ +(?:\d+|\w+) +(\w+)(?:: | +\d+ +[\d.]+ [MKi]*B  +)([A-Z].+?)(?: \.\.\.)?$"
    shown = re.findall(row, (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(shown) >= 3
    assert [sentence for code, sentence in shown if not SENTENCES[code].startswith(sentence)] == []


def test_every_path_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:dags|docs|iam|include|plugins|tests)/[\w./-]*|[\w.-]+\.(?:txt|lock|yaml))`", text))
    assert paths
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_every_name_that_a_recipe_puts_into_a_module_is_there() -> None:
    """A recipe names it as: `NAME` in `include/...`."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`(?:\s\([^)]*\))?\s+(?:in|of)\s+`([\w/]+\.py)`", text)
    assert named
    assert [(name, path) for name, path in named if name not in (ROOT / path).read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("page", [page for page in DOCS if page.startswith("docs/decisions/") and page != DECISIONS])
def test_a_decision_is_dated_short_and_listed_by_its_title_and_date(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    title, date = text.splitlines()[0].removeprefix("# "), text.splitlines()[2]
    assert re.fullmatch(r"Decided \d{4}-\d\d-\d\d\.", date), f"{page} has no line such as: Decided 2026-11-24."
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequence"]
    assert text.count("\n") <= 40, f"{page} has more than 40 lines"
    row = f"| {date[8:-1]} | [{title}]({page.rpartition('/')[2]}) |"
    assert row in (ROOT / DECISIONS).read_text(encoding="utf-8"), f"{DECISIONS} lacks the row: {row}"
