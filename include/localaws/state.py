"""The emulator's database: one SQLite file, one connection per thread, explicit transactions."""

from __future__ import annotations

import sqlite3
import threading
import weakref
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SHARED_TABLES = """
CREATE TABLE IF NOT EXISTS client_token (
    operation TEXT NOT NULL, token TEXT NOT NULL, fingerprint TEXT NOT NULL, subject TEXT NOT NULL,
    PRIMARY KEY (operation, token)
);
CREATE TABLE IF NOT EXISTS todo (
    kind TEXT NOT NULL, subject TEXT NOT NULL, due_at REAL NOT NULL, PRIMARY KEY (kind, subject)
);
CREATE TABLE IF NOT EXISTS tag (arn TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (arn, key));
CREATE TABLE IF NOT EXISTS fault (id TEXT PRIMARY KEY, body TEXT NOT NULL, remaining INTEGER);
"""


class StateError(RuntimeError):
    """The file was made by another version of the emulator."""


class ThreadConnection(sqlite3.Connection):
    """A connection that can be referred to weakly: it closes when the thread that it belongs to ends."""


class State:
    """The emulator's database.

    A process that is killed leaves all of a transaction or nothing of it; a power failure may cost the last ones.

    Parameters
    ----------
    path : Path
        The SQLite file; made if missing.
    tables : sequence of str
        ``CREATE TABLE IF NOT EXISTS`` scripts of the services.

    Raises
    ------
    StateError
        If the file has other tables than these.
    """

    def __init__(self, path: Path, tables: Sequence[str]) -> None:
        self.path = path
        self._local = threading.local()
        self._opened: weakref.WeakSet[ThreadConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        scripts = (SHARED_TABLES, *tables)
        self._check_version(zlib.crc32("\n".join(scripts).encode()) & 0x7FFFFFFF)
        for script in scripts:
            self._connection().executescript(script)

    def _check_version(self, version: int) -> None:
        """Refuse a file with other tables: every version makes its own, none converts them."""
        connection = self._connection()
        is_new = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not is_new and connection.execute("PRAGMA user_version").fetchone()[0] != version:
            raise StateError(
                f"{self.path} was made by another version of localaws: remove it (make clean, in the one-machine "
                f"stack), or name another file with --state"
            )
        connection.execute(f"PRAGMA user_version = {version}")

    def _connection(self) -> sqlite3.Connection:
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is not None:
            return existing
        connection = sqlite3.connect(
            self.path, timeout=60, isolation_level=None, check_same_thread=False, factory=ThreadConnection
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        self._local.connection = connection
        with self._lock:
            self._opened.add(connection)
        return connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection whose statements see one snapshot."""
        yield from self._transaction("BEGIN")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection inside a write transaction: committed at the end, rolled back on any exception."""
        yield from self._transaction("BEGIN IMMEDIATE")

    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute(begin)
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def close(self) -> None:
        """Close every connection; call it when no thread uses the state any more."""
        with self._lock:
            for connection in list(self._opened):
                connection.close()
            self._opened.clear()
