"""The book: a row per received object, in SQLite in the edge's state folder.

A row is written before its object's file leaves the spool, and never after a power cut that the file does not survive:
so each acknowledged object is in the spool, in the book, or in both.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any

from airlock_edge.reserve import Reserve
from airlock_edge.start_error import RESTORE, EdgeStartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

NAME = "book.sqlite"
_BUSY_SECONDS = 60


class State(StrEnum):
    """Where an object is safe."""

    SPOOLED = "spooled"  # on the edge's disk, flushed
    DURABLE = "durable"  # on S3, its checksum verified


@dataclass(frozen=True)
class Received:
    """A received object.

    Attributes
    ----------
    s3_key
        The object's key in the bucket of ``destination.uri``; one per content.
    sop_instance_uid, sop_class_uid
        As the C-STORE request names them.
    transfer_syntax
        As negotiated.
    calling_ae_title
        Who sent it first.
    study_key
        `airlock.records.study_key` of its StudyInstanceUID; "" if the data set has none.
    sha256
        Hex digest of the stored file: the header that the edge writes, and the data set.
    size
        Bytes of the stored file.
    state
        Where it is safe.
    received_at, durable_at
        By the edge's clock, ISO 8601 in UTC; durable_at is "" until it is durable. No decision compares them.
    study_instance_uid
        Of the data set, "" if it has none. It is for the delivery manifest; logs and keys have the study_key.
    """

    s3_key: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax: str
    calling_ae_title: str
    study_key: str
    sha256: str
    size: int
    state: State
    received_at: str
    durable_at: str = ""
    study_instance_uid: str = ""

    @property
    def folder(self) -> str:
        """The folder of the object's key, without the last slash: one study of one day."""
        return self.s3_key.rpartition("/")[0]


@dataclass(frozen=True)
class Delivery:
    """What a folder has, for its manifest.

    Attributes
    ----------
    objects, bytes
        In the folder.
    spooled
        How many of them are not on S3 yet.
    files
        The StudyInstanceUID of each object, "" if it has none, by its name in the folder.
    studies
        How many instances of each study were received in all, in whatever folder, by its StudyInstanceUID.
    """

    objects: int
    bytes: int
    spooled: int
    files: dict[str, str]
    studies: dict[str, int]


_NAMES = tuple(field.name for field in fields(Received))
_COLUMNS, _MARKS = ", ".join(_NAMES), ", ".join("?" * len(_NAMES))
_TABLES = """
CREATE TABLE IF NOT EXISTS received (
    s3_key TEXT PRIMARY KEY,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL,
    calling_ae_title TEXT NOT NULL,
    study_key TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    state TEXT NOT NULL,
    received_at TEXT NOT NULL,
    durable_at TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS received_by_instance ON received (sop_instance_uid, sop_class_uid);
CREATE INDEX IF NOT EXISTS received_by_study ON received (study_instance_uid);
CREATE TABLE IF NOT EXISTS newest (  -- the content of an instance that each peer sent last
    sop_instance_uid TEXT,
    sop_class_uid TEXT,
    calling_ae_title TEXT,
    s3_key TEXT NOT NULL,
    PRIMARY KEY (sop_instance_uid, sop_class_uid, calling_ae_title)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (
    folder TEXT PRIMARY KEY,
    changes INTEGER NOT NULL,  -- objects that came or became durable so far
    closed INTEGER NOT NULL    -- changes that the last manifest has
) WITHOUT ROWID;
"""
# The same content again changes nothing but its state, and that only forwards.
_ADD = f"""
INSERT INTO received ({_COLUMNS}) VALUES ({_MARKS})
ON CONFLICT (s3_key) DO UPDATE SET state = excluded.state, durable_at = excluded.durable_at
WHERE received.state = 'spooled' AND excluded.state = 'durable'
"""  # noqa: S608 - names of our own fields
# An object that comes to S3 without a row was received right before a kill: it is newer than what the book has.
_NEWEST = """
INSERT INTO newest (sop_instance_uid, sop_class_uid, calling_ae_title, s3_key) SELECT ?, ?, ?, ?
WHERE ? OR NOT EXISTS (SELECT 1 FROM received WHERE s3_key = ?)
ON CONFLICT DO UPDATE SET s3_key = excluded.s3_key
"""
_CHANGE = """
INSERT INTO deliveries (folder, changes, closed) VALUES (?, ?, 0)
ON CONFLICT (folder) DO UPDATE SET changes = changes + excluded.changes
"""


def now_text(*, days_ago: float = 0) -> str:
    """Return the present time, or an earlier one, as the book writes it."""
    return (datetime.now(UTC) - timedelta(days=days_ago)).isoformat(timespec="milliseconds")


class Book:
    """The book of one edge; several threads and processes may have it open.

    Parameters
    ----------
    folder
        The edge's state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = RLock()
        self._reserve = Reserve(folder)
        self._connection = _connect(folder)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")  # a committed row survives a power cut
            self._connection.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise _explain(folder / NAME, error) from None
        # A reader of its own does not wait until another thread's rows are flushed.
        self._read_lock = Lock()
        self._reading = _connect(folder)

    def close(self) -> None:
        """Close the connection."""
        with self._lock, self._read_lock:
            self._reading.close()
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in one transaction, which is flushed to the disk when the block ends."""
        with self._lock, self._reserve.transaction(self._connection):
            yield self._connection

    def add(self, objects: Iterable[Received], *, arrived: bool = True) -> None:
        """Add objects, or note that they are durable by now; returns when the rows are flushed.

        Parameters
        ----------
        objects
            The objects, in the order in which they came.
        arrived
            Whether they came just now, so that they are the newest content of their instances; False for objects that
            come to S3 later.
        """
        rows = list(objects)
        changes = Counter(row.folder for row in rows)
        newest = (
            (row.sop_instance_uid, row.sop_class_uid, row.calling_ae_title, row.s3_key, arrived, row.s3_key)
            for row in rows
        )
        with self.transaction() as connection:
            connection.executemany(_NEWEST, newest)
            connection.executemany(_ADD, map(astuple, rows))
            connection.executemany(_CHANGE, changes.items())

    def open_deliveries(self) -> dict[str, int]:
        """Return the folders that have changed since their last manifest, each with the number of its changes."""
        query = "SELECT folder, changes FROM deliveries WHERE changes > closed"
        with self._read_lock, closing(self._reading.execute(query)) as rows:
            return dict(rows.fetchall())

    def reopen_delivery(self, s3_key: str) -> None:
        """Mark an object's folder as changed, so that its manifest is written again, if the book has the object."""
        if self.get(s3_key) is not None:
            with self.transaction() as connection:
                connection.execute(_CHANGE, (s3_key.rpartition("/")[0], 1))

    def close_delivery(self, folder: str, changes: int) -> None:
        """Note that a folder's manifest has its first *changes* changes."""
        with self.transaction() as connection:
            connection.execute("UPDATE deliveries SET closed = ? WHERE folder = ?", (changes, folder))

    def describe_delivery(self, folder: str) -> Delivery:
        """Return what a folder has."""
        rows = self._select("s3_key > ? AND s3_key < ?", f"{folder}/", f"{folder}0")  # 0 follows the slash
        return Delivery(
            objects=len(rows),
            bytes=sum(row.size for row in rows),
            spooled=sum(row.state is State.SPOOLED for row in rows),
            files={row.s3_key.rpartition("/")[2]: row.study_instance_uid for row in rows},
            studies={uid: self._count_instances(uid) for uid in {row.study_instance_uid for row in rows} - {""}},
        )

    def _count_instances(self, study_instance_uid: str) -> int:
        query = "SELECT count(DISTINCT sop_instance_uid) FROM received WHERE study_instance_uid = ?"
        with self._read_lock, closing(self._reading.execute(query, (study_instance_uid,))) as rows:
            return int(rows.fetchone()[0])

    def find(self, sop_instance_uid: str, sop_class_uid: str) -> list[Received]:
        """Return every content that was received of an instance, oldest key first; [] for an unknown one."""
        where = "sop_instance_uid = ? AND sop_class_uid = ?"
        return self._select(where, sop_instance_uid, sop_class_uid)

    def find_content(
        self, sop_instance_uid: str, sop_class_uid: str, sha256: str, *, since: str = ""
    ) -> Received | None:
        """Return the first key of a content of an instance that was received since then.

        Objects without a UID may be as many as there are.
        """
        where = "sop_instance_uid = ? AND sop_class_uid = ? AND sha256 = ? AND received_at >= ?"
        return next(iter(self._select(where, sop_instance_uid, sop_class_uid, sha256, since)), None)

    def list_between(self, after: str, before: str, most: int) -> list[Received]:
        """Return the first objects whose keys lie between two texts, in the order of their keys."""
        return self._select("s3_key > ? AND s3_key < ?", after, before, most=most)

    def get(self, s3_key: str) -> Received | None:
        """Return the object with this key."""
        return next(iter(self._select("s3_key = ?", s3_key)), None)

    def count(self) -> int:
        """Return the number of objects."""
        with self._read_lock, closing(self._reading.execute("SELECT count(*) FROM received")) as rows:
            return int(rows.fetchone()[0])

    def _select(self, where: str, *values: Any, most: int = -1) -> list[Received]:
        query = f"SELECT {_COLUMNS} FROM received WHERE {where} ORDER BY s3_key LIMIT ?"  # noqa: S608
        with self._read_lock, closing(self._reading.execute(query, (*values, most))) as rows:
            return [_read_row(row) for row in rows]


def _connect(folder: Path) -> sqlite3.Connection:
    path = folder / NAME
    try:
        return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.DatabaseError as error:
        raise _explain(path, error) from None


def _explain(path: Path, error: sqlite3.DatabaseError) -> EdgeStartError:
    return EdgeStartError(f"state: {path} cannot be opened ({error}): {RESTORE}")


def _read_row(row: tuple[Any, ...]) -> Received:
    values = dict(zip(_NAMES, row, strict=True))
    return Received(**values | {"state": State(values["state"])})
