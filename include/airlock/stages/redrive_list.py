"""Read the list of a redrive: a dispositions.csv in which a person kept the rows to redrive."""

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
    """One row of the list."""

    line: int  # in the file, from 1, the heading included
    arrival_id: str
    key: str | None  # as the cell shows it


def read_csv(body: bytes, columns: Sequence[str]) -> list[ListedRow]:
    """Return the rows of an edited dispositions.csv, in any order and with or without the other columns.

    A spreadsheet may have written it: with a byte order mark, CR LF, and semicolons or tabs between the cells.

    Parameters
    ----------
    body
        The content of the file.
    columns
        The columns of a dispositions.csv of the pipeline's kind.

    Raises
    ------
    RedriveError
        If the content is not such a list. The message names the lines.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RedriveError("redrive_csv is not UTF-8. Save it as 'CSV UTF-8'.") from None
    rows = _read_cells(text)
    heading = next(rows, (0, []))[1]
    unknown = [name for name in heading if name not in columns]
    if unknown or len(set(heading)) < len(heading):
        number = len(unknown) or len(heading) - len(set(heading))
        raise RedriveError(
            f"redrive_csv has {number} columns in line 1 that a dispositions.csv does not have, or has only once. "
            f"Keep the heading, or some of its columns: {', '.join(columns)}."
        )
    if "arrival_id" not in heading:
        raise RedriveError("redrive_csv lacks the column arrival_id, which identifies a row. Keep it.")
    return [_read_row(line, heading, cells) for line, cells in rows]


def _read_cells(text: str) -> Iterator[tuple[int, list[str]]]:
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
        raise RedriveError(f"redrive_csv cannot be read from line {line} on. Save it as CSV (RFC 4180).") from None


def _read_row(line: int, heading: list[str], cells: list[str]) -> ListedRow:
    if len(cells) != len(heading):
        raise RedriveError(
            f"redrive_csv, line {line}: {len(cells)} cells under {len(heading)} columns. Copy the whole row."
        )
    values = dict(zip(heading, cells, strict=True))
    if not _ARRIVAL_ID.fullmatch(values["arrival_id"]):
        raise RedriveError(
            f"redrive_csv, line {line}: the arrival_id is not 32 hex digits. A spreadsheet may have changed it into a "
            f"number. Copy it from the run's own dispositions.csv."
        )
    return ListedRow(line, values["arrival_id"], values.get("key"))
