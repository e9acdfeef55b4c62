"""The pages of the site are those of the repository, and their links lead to the same files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from website import staging

from tests.markdown import DOCS, ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pages")
    staging.stage_pages(target)
    staging.add_navigation(target, ["docs/reference/made.md"])
    return target


def test_every_page_of_docs_is_on_the_site(staged: Path) -> None:
    assert [page for page in DOCS if not (staged / page).is_file()] == []


def test_every_page_is_in_the_navigation_once(staged: Path) -> None:
    """Sphinx warns of pages that are not, and a warning fails the build."""
    named = [name for index in staged.glob("docs/**/index.md") for name in navigation(index)]
    pages = {f"/{page.removesuffix('.md')}" for page in staging.find_pages()} - {"/docs/index"}
    assert sorted(named) == sorted(pages | {"/docs/reference/made"})


def navigation(index: Path) -> list[str]:
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", index.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for tree in trees for line in tree.splitlines() if line.startswith("/")]


def test_what_a_page_offers_for_download_is_staged(staged: Path) -> None:
    assert (staged / "docs/pipeline.schema.json").is_file()
    assert (staged / "docs/performance.svg").is_file()


def test_the_pages_of_the_repository_are_not_changed(staged: Path) -> None:
    assert "toctree" in (staged / "docs/index.md").read_text(encoding="utf-8")
    assert "toctree" not in (ROOT / "docs/index.md").read_text(encoding="utf-8")


def test_a_broken_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/page.md").write_text("# Page\n\n[nothing](there.md)\n")
    monkeypatch.setattr(staging, "ROOT", tmp_path)
    with pytest.raises(staging.BrokenLinkError, match=r"docs/page\.md links to there\.md"):
        staging.stage_pages(tmp_path / "staged")
