"""Output of commands: the result on standard output, as tables or JSON, and messages on standard error.

Text from files is hostile: a key may contain escape sequences of a terminal. Tables and messages show such characters
in written form and never send them. JSON uses its own escapes, so that a program gets the exact value.
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

    from rich.console import Console

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # Unicode's general categories without a glyph
_WIDTH_IN_A_PIPE = 240  # columns
_GAP = 2  # columns between two of a table
_SENTENCE = 24  # columns that a sentence gets at least
_EXACT = frozenset({"key"})  # columns whose values have spaces that count
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Table:
    """A table with a title; its cells hold any value that `format_cell` accepts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def escape_unprintable(text: str) -> str:
    r"""Return a text in which invisible and control characters are written out, as ``\x1b`` or ``\u202e``."""
    return "".join(_escape(one) if unicodedata.category(one) in _UNSEEN else one for one in text)


def _escape(one: str) -> str:
    code = ord(one)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def format_cell(value: Any) -> str:
    """Return a cell's text: empty for None, times in UTC to the second, lists separated by commas."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, list | tuple):
        return ", ".join(map(format_cell, value))
    return escape_unprintable(str(value))


def format_size(number: float) -> str:
    """Return a number of bytes with a unit, as ``1.5 KiB``."""
    value, unit = float(number), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def say(message: str) -> None:
    """Write a message to standard error, line by line."""
    for line in message.split("\n"):
        sys.stderr.write(f"{escape_unprintable(line)}\n")
    sys.stderr.flush()


def print_json(content: Any) -> None:
    """Write a result to standard output as JSON in ASCII, with times in ISO 8601."""
    sys.stdout.write(json.dumps(content, indent=1, default=_encode) + "\n")


def _encode(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_tables(tables: Iterable[Table]) -> None:
    """Write tables to standard output without cutting any value; a table without rows is left out.

    Sentences are wrapped between words. A table whose other values do not fit side by side is written as a block of
    lines for each row, so that every value can be copied from a narrow terminal.
    """
    from rich.console import Console  # noqa: PLC0415  # slow to import; --json and messages need none
    from rich.text import Text  # noqa: PLC0415

    narrow = sys.stdout.isatty() or os.environ.get("COLUMNS")
    console = Console(markup=False, highlight=False, emoji=False, width=None if narrow else _WIDTH_IN_A_PIPE)
    for table in tables:
        if not table.rows:
            continue
        console.print(Text(escape_unprintable(table.title), style="bold"), soft_wrap=True)
        names = [escape_unprintable(name) for name in table.columns]
        rows = [[format_cell(value) for value in row] for row in table.rows]
        widths = _fit(names, rows, console.width)
        if widths is None:
            _print_blocks(console, names, rows)
        else:
            _print_rows(console, names, rows, widths)


def _fit(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return the width of each column; None if a value would have to be broken."""
    from rich.cells import cell_len  # noqa: PLC0415  # a character may take two columns of a terminal

    columns = list(zip(names, *rows, strict=True))
    whole = [max(map(cell_len, column)) for column in columns]
    words = [
        max(cell_len(part) for text in column for part in ([text] if name in _EXACT else text.split(" ")))
        for name, column in zip(names, columns, strict=True)
    ]
    fitted = [min(most, max(_SENTENCE, word)) for most, word in zip(whole, words, strict=True)]
    spare = width - sum(fitted) - _GAP * (len(columns) - 1)
    if spare < 0:
        return None
    for place, most in enumerate(whole):
        more = min(spare, most - fitted[place])
        fitted[place] += more
        spare -= more
    return fitted


def _print_rows(console: Console, names: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    from rich.table import Table as Drawn  # noqa: PLC0415  # see `print_tables`
    from rich.text import Text  # noqa: PLC0415

    drawn = Drawn(show_header=any(names), header_style="italic", box=None, pad_edge=False)
    for name, width in zip(names, widths, strict=True):
        drawn.add_column(Text(name), overflow="fold", width=width)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)
    console.print()


def _print_blocks(console: Console, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.text import Text  # noqa: PLC0415  # see `print_tables`

    longest = max(map(len, names))
    for row in rows:
        for name, cell in zip(names, row, strict=True):
            if cell:
                console.print(Text(f"  {name:<{longest}}  {cell}" if longest else f"  {cell}"), soft_wrap=True)
        console.print()
