"""What a command prints: its result on standard output, as tables or as JSON, and messages on standard error.

What comes out of files is hostile: a key may hold the escape sequences of a terminal. In tables and messages such
characters are shown, not sent; JSON writes them as its own escapes, so that a program gets the value as it is.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode's general categories without a glyph
_WIDTH_IN_A_PIPE = 240  # columns
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Table:
    """A titled table; a cell is whatever `text` takes."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def harmless(text: str) -> str:
    r"""Return a text with what a terminal would act on, or not show, written out: ``\x1b``, ``\u202e``."""
    return "".join(_written_out(one) if unicodedata.category(one) in _UNSEEN else one for one in text)


def _written_out(one: str) -> str:
    code = ord(one)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def text(value: Any) -> str:
    """Return a cell's text: nothing for None, a time in UTC to the second, several values by commas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    return harmless(str(value))


def size(number: float) -> str:
    """Return a number of bytes as people read it."""
    value, unit = float(number), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def say(message: str) -> None:
    """Write a message to standard error, line by line."""
    for line in message.split("\n"):
        sys.stderr.write(f"{harmless(line)}\n")
    sys.stderr.flush()


def print_json(content: Any) -> None:
    """Write a result to standard output as JSON in ASCII; times in ISO 8601."""
    sys.stdout.write(json.dumps(content, indent=1, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_tables(tables: Iterable[Table]) -> None:
    """Write tables to standard output; of one without rows nothing, and no value is cut off."""
    from rich.console import Console  # noqa: PLC0415  # not for --json, nor for a message
    from rich.table import Table as Drawn  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    narrow = sys.stdout.isatty() or os.environ.get("COLUMNS")
    console = Console(markup=False, highlight=False, emoji=False, width=None if narrow else _WIDTH_IN_A_PIPE)
    for table in tables:
        if not table.rows:
            continue
        console.print(Text(harmless(table.title), style="bold"))
        drawn = Drawn(show_header=any(table.columns), header_style="italic", box=None, pad_edge=False)
        for name in table.columns:
            drawn.add_column(Text(harmless(name)), overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(text(value)) for value in row))
        console.print(drawn)
        console.print()


def print_lines(lines: Iterable[str]) -> None:
    """Write plain lines to standard output."""
    for line in lines:
        sys.stdout.write(f"{harmless(line)}\n")
