"""How the processes of the local Airflow open its SQLite database.

Each waits for its turn to write. By itself SQLite gives up after five seconds. A disk that is busy with something else
takes longer, and the scheduler, the triggerer and the DAG processor then end for good.

Processes that make backfills need more. Airflow makes the runs of a backfill below savepoints. SQLite begins such a
transaction for reading only. Its first write is refused at once ("database is locked") if another process, for example
the scheduler, has written meanwhile; the connection's timeout does not help. A transaction that begins for writing
waits for its turn. The DAG processor and the scheduler do without: they would keep others waiting while they read.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Self

_SECONDS = 60.0  # that a process waits for others to write
_SECONDS_OF_BACKFILLS = 20.0  # clients of the API server wait for 30


class _Cursor(sqlite3.Cursor):
    def execute(self, statement: str, *parameters: Any) -> Self:
        """Execute a statement; a savepoint outside of a transaction first begins one for writing."""
        if statement.startswith("SAVEPOINT") and not self.connection.in_transaction:
            super().execute("BEGIN IMMEDIATE")
        return super().execute(statement, *parameters)


class Connection(sqlite3.Connection):
    """A connection whose savepoints begin a transaction for writing."""

    def cursor(self, factory: Any = _Cursor) -> Any:
        """Return a cursor."""
        return super().cursor(factory)


# Named by AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS.
CONNECT_ARGUMENTS = {"timeout": _SECONDS}
BACKFILL_ARGUMENTS = {"factory": Connection, "timeout": _SECONDS_OF_BACKFILLS}
