"""Commitment requests and what Airlock has told, in SQLite beside the book: each change is flushed before it counts."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from airlock_edge import book
from airlock_edge.commitment.clock import Clock
from airlock_edge.commitment.information import Reference
from airlock_edge.commitment.verdict import Content
from airlock_edge.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from airlock_edge.commitment.information import Request

NAME: Final = "commitment.sqlite"
_BUSY_SECONDS = 60
_TABLES = """
CREATE TABLE IF NOT EXISTS clock (
    one INTEGER PRIMARY KEY CHECK (one = 1), boot_id TEXT NOT NULL, boot_time REAL NOT NULL, seconds REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    ae_title TEXT NOT NULL,
    transaction_uid TEXT NOT NULL,
    received_at TEXT NOT NULL,  -- by the wall clock, for people
    received REAL NOT NULL,     -- by the clock of waiting
    decided REAL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt REAL NOT NULL DEFAULT 0,
    UNIQUE (ae_title, transaction_uid)
);
CREATE INDEX IF NOT EXISTS requests_by_state ON requests (state);
CREATE TABLE IF NOT EXISTS referenced (
    request INTEGER NOT NULL,
    position INTEGER NOT NULL,
    sop_class_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    failure INTEGER,  -- Failure Reason; null: committed, or not decided
    PRIMARY KEY (request, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS told (
    s3_key TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    disposition TEXT NOT NULL,
    reason TEXT,
    place TEXT NOT NULL  -- in the order of words on this key, as JSON
) WITHOUT ROWID;
"""
# What each peer sent last of the instances of a request, and what is known of it; no key for an unknown instance.
_LOOK = """
SELECT i.position, n.s3_key IS NULL, n.calling_ae_title = q.ae_title, r.state = 'durable', t.state, r.study_key,
    t.reason
FROM requests q JOIN referenced i ON i.request = q.number
LEFT JOIN book.newest n ON n.sop_instance_uid = i.sop_instance_uid AND n.sop_class_uid = i.sop_class_uid
LEFT JOIN book.received r ON r.s3_key = n.s3_key
LEFT JOIN told t ON t.s3_key = n.s3_key
WHERE q.number = ? ORDER BY i.position
"""
_OTHER_CLASS = """
SELECT i.position FROM referenced i WHERE i.request = ?
AND EXISTS (SELECT 1 FROM book.newest n WHERE n.sop_instance_uid = i.sop_instance_uid)
"""
# What Airlock told about the newest contents of the instances that have a key between two.
_TOLD = """
SELECT n.sop_instance_uid, n.sop_class_uid, n.calling_ae_title, t.state FROM book.received r
JOIN book.newest n ON n.sop_instance_uid = r.sop_instance_uid AND n.sop_class_uid = r.sop_class_uid
LEFT JOIN told t ON t.s3_key = n.s3_key WHERE r.s3_key BETWEEN ? AND ? AND r.sop_instance_uid != ''
"""
_FORGOTTEN = """
SELECT t.s3_key FROM told t WHERE t.s3_key > ? AND t.s3_key < ?
AND NOT EXISTS (SELECT 1 FROM book.received r WHERE r.s3_key = t.s3_key) LIMIT ?
"""


class State(StrEnum):
    """The state of a request."""

    WAITING = "waiting"
    DECIDED = "decided"  # its result is to be sent
    REPORTED = "reported"
    UNDELIVERED = "undelivered"  # the peer did not take the result for too long


class Added(StrEnum):
    """What became of a request that was to be added."""

    NEW = "new"
    KNOWN = "known"  # the peer repeats it
    TAKEN = "taken"  # the Transaction UID names a request about other instances


@dataclass(frozen=True)
class Kept:
    """A request that is kept; its times are of the clock of waiting, in seconds."""

    number: int
    ae_title: str
    transaction_uid: str
    received_at: str
    received: float
    decided: float | None
    state: State
    attempts: int


@dataclass(frozen=True)
class Told:
    """What Airlock said about an object.

    Attributes
    ----------
    s3_key
        The object.
    state
        ``imported``, ``released`` or ``failed``.
    disposition, reason
        Airlock's own words, for people.
    place
        In the order of words on this object: of two the higher one counts, number by number.
    """

    s3_key: str
    state: str
    disposition: str
    reason: str | None
    place: tuple[int, ...]


@dataclass(frozen=True)
class Known:
    """What is known of an instance of a request.

    Attributes
    ----------
    contents
        The newest content by peer.
    has_other_class
        Whether it was received under another SOP class.
    study_key, reasons
        Of its contents, for people; "" and none for an unknown instance.
    """

    contents: tuple[Content, ...]
    has_other_class: bool
    study_key: str
    reasons: tuple[str, ...]


_KEPT = "number, ae_title, transaction_uid, received_at, received, decided, state, attempts"


def _read_kept(row: Sequence[Any]) -> Kept:
    number, ae_title, transaction_uid, received_at, received, decided, state, attempts = row
    return Kept(number, ae_title, transaction_uid, received_at, received, decided, State(state), attempts)


class CommitmentStore:
    """The requests of one edge.

    Parameters
    ----------
    folder
        The edge's state folder, which has the book.
    clock
        The clock of waiting.
    """

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self._lock = RLock()
        self._reserve = Reserve(folder)
        self._writer = _open(folder / NAME)
        self._writer.executescript(_TABLES)
        self._reader = _open(folder / NAME)  # with the book beside it: a writer's transaction would lock that too
        self._reader.execute("ATTACH DATABASE ? AS book", (str(folder / book.NAME),))
        self._reader_lock = RLock()
        self.clock.load(self._writer)

    def close(self) -> None:
        """Close the connections."""
        with self._lock, self._reader_lock:
            self._writer.close()
            self._reader.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._reserve.transaction(self._writer):
            yield self._writer
            self.clock.keep(self._writer)

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._reader_lock, closing(self._reader.execute(query, values)) as rows:
            return rows.fetchall()

    def keep_clock(self) -> None:
        """Keep the clock of waiting, so that little of it is lost with the machine."""
        with self._transaction():
            pass

    def version(self) -> tuple[int, int]:
        """Return numbers of which one differs when the book, or what is kept here, has changed."""
        ((of_book,),) = self._read("PRAGMA book.data_version")
        ((of_requests,),) = self._read("PRAGMA main.data_version")
        return int(of_book), int(of_requests)

    def add(self, ae_title: str, request: Request) -> Added:
        """Add a request; return when it is flushed."""
        with self._transaction() as connection:
            query = "SELECT number FROM requests WHERE ae_title = ? AND transaction_uid = ?"
            known = connection.execute(query, (ae_title, request.transaction_uid)).fetchone()
            if known:
                same = _list_references(connection, known[0]) == _without_failures(request.references)
                return self._repeat(connection, known[0]) if same else Added.TAKEN
            row = ae_title, request.transaction_uid, book.now_text(), self.clock.now(), State.WAITING.value
            statement = (
                "INSERT INTO requests (ae_title, transaction_uid, received_at, received, state) VALUES (?,?,?,?,?)"
            )
            number = connection.execute(statement, row).lastrowid
            references = (
                (number, position, one.sop_class_uid, one.sop_instance_uid)
                for position, one in enumerate(request.references)
            )
            insert = "INSERT INTO referenced (request, position, sop_class_uid, sop_instance_uid) VALUES (?, ?, ?, ?)"
            connection.executemany(insert, references)
        return Added.NEW

    @staticmethod
    def _repeat(connection: sqlite3.Connection, number: int) -> Added:
        """Let the result of a request be sent again, if it has one: the peer asks for it."""
        answered = State.REPORTED.value, State.UNDELIVERED.value
        again = "UPDATE requests SET state = ?, next_attempt = 0 WHERE number = ? AND state IN (?, ?)"
        connection.execute(again, (State.DECIDED.value, number, *answered))
        return Added.KNOWN

    def list_in(self, *states: State) -> list[Kept]:
        """Return the requests in these states, oldest first."""
        marks = ", ".join("?" * len(states))
        query = f"SELECT {_KEPT} FROM requests WHERE state IN ({marks}) ORDER BY number"  # noqa: S608 - our own names
        return [_read_kept(row) for row in self._read(query, *states)]

    def list_due(self) -> list[Kept]:
        """Return the requests whose results are to be sent now, oldest first."""
        query = f"SELECT {_KEPT} FROM requests WHERE state = ? AND next_attempt <= ? ORDER BY number"  # noqa: S608
        return [_read_kept(row) for row in self._read(query, State.DECIDED.value, self.clock.now())]

    def look(self, number: int) -> list[Known]:
        """Return what is known of each instance of a request, in the request's order."""
        elsewhere = {position for (position,) in self._read(_OTHER_CLASS, number)}
        contents: dict[int, list[Content]] = {}
        studies: dict[int, str] = {}
        reasons: dict[int, list[str]] = {}
        for position, is_unknown, is_own, is_durable, told, study, reason in self._read(_LOOK, number):
            found = contents.setdefault(position, [])
            if not is_unknown:
                found.append(Content(bool(is_own), bool(is_durable), told))
                studies[position] = study or ""
                reasons.setdefault(position, []).extend([reason] if reason else [])
        return [
            Known(tuple(found), position in elsewhere, studies.get(position, ""), tuple(reasons.get(position, ())))
            for position, found in sorted(contents.items())
        ]

    def references(self, number: int) -> list[Reference]:
        """Return the instances of a request with their failures, in the request's order."""
        query = "SELECT sop_class_uid, sop_instance_uid, failure FROM referenced WHERE request = ? ORDER BY position"
        return [Reference(*row) for row in self._read(query, number)]

    def decide(self, number: int, failures: Sequence[int | None]) -> None:
        """Record the result of a request that waits: the Failure Reason of each instance, None for a committed one."""
        with self._transaction() as connection:
            waits = "UPDATE requests SET state = ?, decided = ? WHERE number = ? AND state = ?"
            values = State.DECIDED.value, self.clock.now(), number, State.WAITING.value
            if connection.execute(waits, values).rowcount:
                rows = ((failure, number, position) for position, failure in enumerate(failures))
                connection.executemany("UPDATE referenced SET failure = ? WHERE request = ? AND position = ?", rows)

    def note_reported(self, number: int) -> None:
        """Record that the peer has taken a result."""
        with self._transaction() as connection:
            connection.execute("UPDATE requests SET state = ? WHERE number = ?", (State.REPORTED.value, number))

    def give_up(self, number: int) -> None:
        """Record that a result is not sent again, unless the peer repeats its request."""
        with self._transaction() as connection:  # unless the peer has taken it meanwhile
            given_up = State.UNDELIVERED.value, number, State.DECIDED.value
            connection.execute("UPDATE requests SET state = ? WHERE number = ? AND state = ?", given_up)

    def postpone(self, number: int, seconds: float) -> None:
        """Record that the peer did not take a result, and send it again after a pause."""
        with self._transaction() as connection:
            statement = "UPDATE requests SET attempts = attempts + 1, next_attempt = ? WHERE number = ?"
            connection.execute(statement, (self.clock.now() + seconds, number))

    def hurry(self, ae_title: str) -> None:
        """Let the results for a peer be sent now: it is there."""
        with self._transaction() as connection:
            statement = "UPDATE requests SET next_attempt = 0 WHERE ae_title = ? AND state = ?"
            connection.execute(statement, (ae_title, State.DECIDED.value))

    def note_told(self, news: Iterable[Told]) -> int:
        """Record what Airlock said, where it is newer than what is known; return how many objects it changes.

        Objects that the book does not have are recorded too: a row of the book may come later than Airlock's word.
        """
        changed = 0
        with self._transaction() as connection:
            for one in news:
                known = connection.execute("SELECT place FROM told WHERE s3_key = ?", (one.s3_key,)).fetchone()
                if known is None or list(one.place) > json.loads(known[0]):
                    row = one.s3_key, one.state, one.disposition, one.reason, json.dumps(one.place)
                    connection.execute("INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?, ?)", row)
                    changed += 1
        return changed

    def list_open_instances(self) -> set[str]:
        """Return the SOP Instance UIDs that requests name whose results the peers have not taken yet."""
        query = (
            "SELECT DISTINCT i.sop_instance_uid FROM requests q JOIN referenced i ON i.request = q.number "
            "WHERE q.state IN (?, ?)"
        )
        return {uid for (uid,) in self._read(query, State.WAITING.value, State.DECIDED.value)}

    def list_told(self, first: str, last: str) -> list[tuple[str, str, str, str | None]]:
        """Return what was told about the newest contents of the instances that have a key between these two.

        Each has the SOP instance and class, the peer that sent it last, and the state; None if nothing was told.
        """
        return self._read(_TOLD, first, last)

    def forget_told(self, after: str, before: str, most: int) -> int:
        """Delete what was told about objects between two keys that the book does not have; return their number."""
        keys = self._read(_FORGOTTEN, after, before, most)
        if keys:
            with self._transaction() as connection:
                connection.executemany("DELETE FROM told WHERE s3_key = ?", keys)
        return len(keys)

    def prune(self, seconds: float) -> int:
        """Delete requests that were answered longer ago than that and are not sent any more; return their number."""
        with self._transaction() as connection:
            old = "state IN (?, ?) AND decided < ?"
            values = State.REPORTED.value, State.UNDELIVERED.value, self.clock.now() - seconds
            chosen = f"SELECT number FROM requests WHERE {old}"  # noqa: S608 - our own names
            connection.execute(f"DELETE FROM referenced WHERE request IN ({chosen})", values)  # noqa: S608
            return connection.execute(f"DELETE FROM requests WHERE {old}", values).rowcount  # noqa: S608


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a committed row survives a power cut
    return connection


def _list_references(connection: sqlite3.Connection, number: int) -> list[tuple[str, str]]:
    query = "SELECT sop_class_uid, sop_instance_uid FROM referenced WHERE request = ? ORDER BY position"
    return [tuple(row) for row in connection.execute(query, (number,))]


def _without_failures(references: Iterable[Reference]) -> list[tuple[str, str]]:
    return [(one.sop_class_uid, one.sop_instance_uid) for one in references]
