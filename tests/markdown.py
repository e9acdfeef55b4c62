"""The blocks of code, the commands, the links and the anchors of the README and the pages of docs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
DOCS = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))
PAGES = ("README.md", *DOCS)
_BLOCK = re.compile(
    r"^ *```(?P<language>\w*)\n(?P<fenced>(?s:.*?))^ *```$|(?<=\n\n)(?P<indented> {4}.*\n(?:\n* {4}.*\n)*)",
    re.MULTILINE,
)
_COMMAND = re.compile(r"(make|(\./)?airlock|pip|python -m) \S")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]*`")


@dataclass(frozen=True)
class Block:
    """A block of code; its language is empty where the page names none."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page=page,
            line=text.count("\n", 0, found.start()) + 1,
            language=found["language"] or "",
            text=dedent(found["fenced"] or found["indented"]),
        )
        for found in _BLOCK.finditer(text)
    ]


def commands(page: str) -> set[str]:
    """Return the commands of a page, in blocks and in the text, without what explains them at the end of the line."""
    lines = [line for block in blocks(page) for line in re.sub(r" *\\\n *", " ", block.text).splitlines()]
    spans = re.findall(r"`([^`\n]+)`", _prose(page))
    found = [re.split(r" {2,}| # ", line)[0] for line in lines] + spans
    return {command for command in found if _COMMAND.match(command)}


def links(page: str) -> list[tuple[str, str]]:
    """Return the relative links of a page, each as a path below the root and an anchor, empty if there is none."""
    targets = [target for target in _LINK.findall(_CODE.sub("", _prose(page))) if "://" not in target]
    return [_resolve(page, *target.partition("#")[::2]) for target in targets]


def _resolve(page: str, path: str, anchor: str) -> tuple[str, str]:
    target = (ROOT / page).parent / path if path else ROOT / page
    return os.path.relpath(target.resolve(), ROOT), anchor


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    names = [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]
    return {name + (f"-{before}" if before else "") for name, before in _numbered(names)}


def _numbered(names: list[str]) -> list[tuple[str, int]]:
    return [(name, names[:index].count(name)) for index, name in enumerate(names)]


def _prose(page: str) -> str:
    return _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
