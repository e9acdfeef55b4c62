"""The pages of the site in a folder of their own, at the paths that they have in the repository.

So every relative link of a page leads to the same file as on GitHub. What a page links to besides pages, such as a
schema or a pipeline file, is staged too, and the site offers it for download.
"""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Pages outside docs/, in the order of the navigation.
OUTSIDE = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "iam/README.md", "deploy/provider/README.md"),
    *("deploy/provider/guides/healthimaging.md", "deploy/provider/guides/healthlake.md"),
)
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_HIDDEN_TOCTREE = "\n\n```{{toctree}}\n:hidden:\n{caption}\n{pages}\n```\n"


class BrokenLinkError(ValueError):
    """A page links to a file that the repository does not have."""


def find_pages() -> list[str]:
    """Return the pages of the site, as paths below the repository's root."""
    docs = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
    return [*(page for page in OUTSIDE if (ROOT / page).is_file()), *docs]


def stage_pages(target: Path) -> None:
    """Copy the pages, and the files that they link to, below a folder.

    Raises
    ------
    BrokenLinkError
        If a linked file does not exist.
    """
    pages = find_pages()
    for page in pages:
        _copy(page, target)
        text = (ROOT / page).read_text(encoding="utf-8")
        (target / page).write_text(_LINK.sub(partial(_stage_link, page=page, target=target), text), encoding="utf-8")


def _stage_link(link: re.Match[str], page: str, target: Path) -> str:
    """Return a link as the site needs it: a folder has no page, so its link becomes the name of the folder."""
    if ":" in link[2]:
        return link[0]
    linked = (ROOT / page).parent.joinpath(link[2]).resolve()
    if not linked.exists():
        raise BrokenLinkError(f"{page} links to {link[2]}, which does not exist. Correct the link.")
    name = str(linked.relative_to(ROOT))
    if linked.is_dir():
        inside = f"{name}/README.md"
        return f"{link[1]}{link[2].rstrip('/')}/README.md{link[4]}" if inside in OUTSIDE else f"{link[1]}#{link[4]}"
    if linked.suffix != ".md":
        _copy(name, target)
    return link[0]


def _copy(name: str, target: Path) -> None:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / name, target / name)


def add_navigation(target: Path, reference: list[str]) -> None:
    """Add the navigation to the staged indexes: the sections of docs/index.md, and the pages of each folder.

    Parameters
    ----------
    target
        The folder of the staged pages.
    reference
        The pages that were made from the code, as paths below `target`.
    """
    index = target / "docs/index.md"
    text = index.read_text(encoding="utf-8")
    trees, named = [], {"/docs/index"}
    for title, part in _sections(text):
        pages = [page for page in _linked(part, "docs") if page not in named]
        named.update(pages)
        trees.append(_toctree(title, pages))
    made = _toctree("Reference from the code", [f"/{page.removesuffix('.md')}" for page in reference])
    index.write_text(text + "".join(trees) + made, encoding="utf-8")
    for inner in sorted(target.glob("docs/*/index.md")):
        text = inner.read_text(encoding="utf-8")
        folder = str(inner.parent.relative_to(target))
        inner.write_text(text + _toctree("", _linked(text, folder, within=f"{folder}/")), encoding="utf-8")


def _sections(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _linked(text: str, folder: str, within: str = "") -> list[str]:
    """Return the pages that a text links to, in its order, as Sphinx names them."""
    found = [(ROOT / folder / link[2]).resolve() for link in _LINK.finditer(text) if ":" not in link[2]]
    names = dict.fromkeys(str(path.relative_to(ROOT)) for path in found if path.suffix == ".md")
    return [f"/{name.removesuffix('.md')}" for name in names if name.startswith(within)]


def _toctree(caption: str, pages: list[str]) -> str:
    option = f":caption: {caption}\n" if caption else ""
    return _HIDDEN_TOCTREE.format(caption=option, pages="\n".join(pages))
