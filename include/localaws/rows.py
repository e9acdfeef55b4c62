"""Rows of the emulator's tables by their identifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.errors import not_found

if TYPE_CHECKING:
    import sqlite3


def find_row(connection: sqlite3.Connection, table: str, identifier: str) -> sqlite3.Row | None:
    """Return the row of this identifier, None if the table has none."""
    query = f"SELECT * FROM {table} WHERE id = ?"  # noqa: S608 - names of our own
    row: sqlite3.Row | None = connection.execute(query, (identifier,)).fetchone()
    return row


def require_row(connection: sqlite3.Connection, table: str, identifier: str, name: str) -> sqlite3.Row:
    """Return the row of this identifier.

    Raises
    ------
    AwsError
        ResourceNotFoundException, which calls the missing thing by `name`.
    """
    row = find_row(connection, table, identifier)
    if row is None:
        raise not_found(name, identifier)
    return row
