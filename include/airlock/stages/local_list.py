"""A listing of a whole data store on the local disk, in which a comparison looks things up."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self


class LocalList:
    """Rows by their first column. A context manager: the file has no name, and disappears at the end.

    Parameters
    ----------
    columns
        The columns, of texts, numbers and booleans.
    by
        Another column by which rows are looked up.
    """

    def __init__(self, columns: pl.Schema, by: str | None = None) -> None:
        self.columns = columns
        self.key, *others = columns.names()
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute(
            f"CREATE TABLE listed ({', '.join([f'{self.key} PRIMARY KEY', *others])}) WITHOUT ROWID"
        )
        if by is not None:
            self._connection.execute(f"CREATE INDEX listed_by ON listed ({by})")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows; of two with one key the later one counts."""
        values = ", ".join("?" * len(self.columns))
        self._connection.execute("BEGIN")
        self._connection.executemany(
            f"INSERT OR REPLACE INTO listed VALUES ({values})",  # noqa: S608  # question marks
            rows.select(self.columns.names()).iter_rows(),
        )
        self._connection.execute("COMMIT")

    def find(self, values: Iterable[str], by: str | None = None) -> pl.DataFrame:
        """Return the rows with one of these keys, or of these values of another column."""
        query = f"SELECT * FROM listed WHERE {by or self.key} IN (SELECT value FROM json_each(?))"  # noqa: S608  # our own names
        with closing(self._connection.execute(query, (json.dumps(list(values)),))) as found:
            return pl.DataFrame(found.fetchall(), self.columns, orient="row", strict=False)

    def values_after(self, value: str, limit: int, by: str | None = None) -> list[str]:
        """Return the next keys, or values of another column, after one, in order."""
        name = by or self.key
        query = f"SELECT DISTINCT {name} FROM listed WHERE {name} > ? ORDER BY {name} LIMIT ?"  # noqa: S608  # our own names
        return [found for (found,) in self._connection.execute(query, (value, limit))]
