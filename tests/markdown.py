"""The blocks of code and the commands in the README and the pages of docs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
_BLOCK = re.compile(
    r"^ *```(?P<language>\w*)\n(?P<fenced>(?s:.*?))^ *```$|(?<=\n\n)(?P<indented> {4}.*\n(?:\n* {4}.*\n)*)",
    re.MULTILINE,
)
_COMMAND = re.compile(r"(make|airlock|pip|python -m) \S")


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
    prose = _BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
    spans = re.findall(r"`([^`\n]+)`", prose)
    found = [re.split(r" {2,}| # ", line)[0] for line in lines] + spans
    return {command for command in found if _COMMAND.match(command)}
