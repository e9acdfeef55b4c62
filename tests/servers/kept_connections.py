"""The connections of SQLite ledgers, kept for the next transaction; the library opens each anew.

A new connection reads the schema of the ledger, which took a seventh of the CPU of the stages' tests. Three things stay
as with a new one: staged tables are gone, the file holds what was committed, and another file in the place of the
ledger's is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import QueuePool, event
from sqlalchemy.exc import DisconnectionError


class KeptConnections(QueuePool):
    """Stands in for `sqlalchemy.pool.NullPool`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"pool_size": 100, **settings})


def _number_of(file: Path) -> int | None:
    return file.stat().st_ino if file.exists() else None


@event.listens_for(KeptConnections, "connect")
def _note_file(connection: Any, record: Any) -> None:
    ((_, _, name),) = connection.execute("PRAGMA database_list").fetchall()[:1]
    record.info["file"] = Path(name), _number_of(Path(name))


@event.listens_for(KeptConnections, "checkout")
def _require_same_file(connection: Any, record: Any, _: object) -> None:
    file, number = record.info["file"]
    if _number_of(file) != number:
        raise DisconnectionError


@event.listens_for(KeptConnections, "reset")
def _leave_as_new(connection: Any, *_: object) -> None:
    connection.rollback()
    for (name,) in connection.execute("SELECT name FROM sqlite_temp_master WHERE type = 'table'").fetchall():
        connection.execute(f"DROP TABLE temp.{name}")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # closing the connection would do the same
