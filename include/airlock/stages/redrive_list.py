"""The list of a redrive: the rows that a person left in a dispositions.csv, as a spreadsheet may write them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airlock.stages.redrive_request import RedriveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ARRIVAL_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ListedRow:
    """A row that was kept of a dispositions.csv."""

    line: int  # of the file, from 1; the heading is a line too
    arrival_id: str
    key: str | None  # as the cell has it


def read_csv(body: bytes, columns: Sequence[str]) -> list[ListedRow]:
    """Read an edited dispositions.csv: the rows that were kept, in any order, as a spreadsheet may write them.

    A byte order mark, CR LF, and semicolons or tabs between the cells are understood.

    Parameters
    ----------
    body
        The file.
    columns
        Those that a dispositions.csv of the pipeline's kind has.

    Raises
    ------
    RedriveError
        If it cannot be read as one; the text names the lines.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RedriveError("redrive_csv is not UTF-8: save it as 'CSV UTF-8'") from None
    rows = _cells(text)
    heading = next(rows, (0, []))[1]
    unknown = [name for name in heading if name not in columns]
    if unknown or len(set(heading)) < len(heading):
        number = len(unknown) or len(heading) - len(set(heading))
        raise RedriveError(
            f"redrive_csv has {number} columns in line 1 that a dispositions.csv does not have, or has twice: "
            f"keep its heading, {', '.join(columns)}, or fewer of them"
        )
    if "arrival_id" not in heading:
        raise RedriveError("redrive_csv lacks the column arrival_id, by which a row is known: keep it")
    return [_row(line, heading, cells) for line, cells in rows]


def _cells(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not empty, with their numbers."""
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error:
        raise RedriveError(f"redrive_csv cannot be read from line {line} on: save it as CSV (RFC 4180)") from None


def _row(line: int, heading: list[str], cells: list[str]) -> ListedRow:
    if len(cells) != len(heading):
        raise RedriveError(
            f"redrive_csv, line {line}: {len(cells)} cells under {len(heading)} columns: take over the whole row"
        )
    values = dict(zip(heading, cells, strict=True))
    if not _ARRIVAL_ID.fullmatch(values["arrival_id"]):
        raise RedriveError(
            f"redrive_csv, line {line}: the arrival_id is not 32 hex digits, a spreadsheet may have made a number "
            f"of it: take it from the run's own dispositions.csv"
        )
    return ListedRow(line, values["arrival_id"], values.get("key"))
