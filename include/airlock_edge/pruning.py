"""Deletes old rows of the book, so that it does not take the spool's disk over the years.

A row goes when nothing needs it any more: its object is durable, its folder is closed, no open commitment request names
its instance, and a request of each peer that sent the instance would be committed. So the book never forgets that a
peer has a content that is not safe: it could not know that another peer's content is a different one.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Final, Self
from zoneinfo import ZoneInfo

from airlock.storage.s3uri import S3Uri
from airlock_edge.book import Book, State, now_text
from airlock_edge.commitment.service import after_of
from airlock_edge.commitment.verdict import Content, Verdict, judge
from airlock_edge.repeating import Repeating
from airlock_edge.start_error import EdgeStartError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock_edge.book import Received
    from airlock_edge.commitment.store import CommitmentStore
    from airlock_edge.settings import Edge

_log = logging.getLogger(__name__)

_PAGE: Final = 1000  # rows that are looked at together
_TRANSACTION_SECONDS: Final = 0.005  # how long reception may have to wait for a transaction, besides its flush
_SHARE: Final = 4  # a transaction of a second is followed by four seconds without one
_DAY, _HOUR = 86_400.0, 3600.0
_CONTENTS = "SELECT s3_key, state, received_at FROM received WHERE sop_instance_uid = ? AND sop_class_uid = ?"
_IS_CLOSED = "SELECT 1 FROM deliveries WHERE folder = ? AND changes = closed"
_DELETE_NEWEST = "DELETE FROM newest WHERE sop_instance_uid = ? AND sop_class_uid = ? AND s3_key = ?"
_DELETE_FOLDER = """
DELETE FROM deliveries WHERE folder = ? AND changes = closed
AND NOT EXISTS (SELECT 1 FROM received WHERE s3_key > folder || '/' AND s3_key < folder || '0')  -- 0 follows the slash
"""


@dataclass(frozen=True)
class Instance:
    """What is deleted together: all contents of an instance, or one object that has no SOP Instance UID."""

    sop_instance_uid: str
    sop_class_uid: str
    s3_key: str = ""

    @classmethod
    def of(cls, row: Received) -> Self:
        """Return the instance of a row."""
        return cls(row.sop_instance_uid, row.sop_class_uid, "" if row.sop_instance_uid else row.s3_key)


class Pruning(Repeating):
    """A thread that prunes once a day; a context manager.

    Parameters
    ----------
    settings
        Of the edge.
    book
        The edge's book, which is read; rows are deleted by a connection of its own, so that reception does not wait for
        its checkpoints.
    store
        The commitment requests; None if Storage Commitment is not offered.
    """

    def __init__(self, settings: Edge, book: Book, store: CommitmentStore | None) -> None:
        super().__init__("pruning")
        self._settings = settings
        self._book = book
        self._store = store
        self._root = f"{S3Uri.parse(settings.destination.uri).key}{settings.site}/"

    def _step(self) -> float:
        try:
            deleted = self.prune()
        except (sqlite3.Error, EdgeStartError) as error:  # the latter if the book cannot be opened
            _log.error("old rows of the book cannot be deleted (%s): check the disk of the state folder", error)
            return _HOUR
        if deleted:
            days = self._settings.book.keep_days
            _log.info("%d objects that came more than %g days ago were deleted from the book", deleted, days)
        return _DAY

    def prune(self) -> int:
        """Delete the old rows that nothing needs; return the number of objects."""
        keep, zone = self._settings.book.keep_days, ZoneInfo(self._settings.timezone)
        end = f"{self._root}{datetime.now(zone) - timedelta(days=keep):%Y-%m-%d}"
        received_before = now_text(days_ago=keep)
        pages = self._read_pages(end)
        deleted = 0
        if first := next(pages, None):
            with closing(Book(self._settings.state)) as book:
                deleted = sum(self._delete(book, self._choose(rows), received_before) for rows in chain([first], pages))
        if self._store is not None:
            while not self._ending.is_set() and self._store.forget_told(self._root, end, _PAGE):
                pass
        return deleted

    def _read_pages(self, end: str) -> Iterator[list[Received]]:
        last = self._root
        while not self._ending.is_set() and (rows := self._book.list_between(last, end, _PAGE)):
            yield rows
            last = rows[-1].s3_key

    def _choose(self, rows: Sequence[Received]) -> list[Instance]:
        """Return the instances of these rows that no commitment request needs, now or later."""
        found = dict.fromkeys(Instance.of(row) for row in rows)
        if self._store is None:
            return list(found)
        needed = self._store.list_open_instances()
        unsafe = {
            (uid, sop_class)
            for uid, sop_class, ae_title, told in self._store.list_told(rows[0].s3_key, rows[-1].s3_key)
            if not self._would_commit(ae_title, told)
        }
        return [
            one
            for one in found
            if one.sop_instance_uid not in needed and (one.sop_instance_uid, one.sop_class_uid) not in unsafe
        ]

    def _would_commit(self, ae_title: str, told: str | None) -> bool:
        """Return whether an object that is durable would be committed to a peer that may ask."""
        after = after_of(self._settings, ae_title)
        if after != "durable" and self._settings.commitment.queue_url is None:
            return True  # requests of this peer are not taken
        content = Content(is_own=True, is_durable=True, told=told)
        return judge(after, [content], has_other_class=False) is Verdict.COMMITTED

    def _delete(self, book: Book, instances: Sequence[Instance], received_before: str) -> int:
        deleted = done = 0
        while done < len(instances) and not self._ending.is_set():
            begun = monotonic()
            looked, rows = delete_some(book, instances[done:], received_before)
            done, deleted = done + looked, deleted + rows
            self._ending.wait(_SHARE * (monotonic() - begun))
        return deleted


def delete_some(book: Book, instances: Sequence[Instance], received_before: str) -> tuple[int, int]:
    """Delete the first of these instances in one short transaction, where their rows may go.

    Returns
    -------
    tuple
        How many instances were looked at, and how many rows were deleted.
    """
    looked, deleted, folders = 0, 0, set[str]()
    with book.transaction() as connection:
        until = monotonic() + _TRANSACTION_SECONDS
        for instance in instances:
            keys = _find_deletable(connection, instance, received_before)
            _delete_rows(connection, instance, keys)
            folders.update(key.rpartition("/")[0] for key in keys)
            looked, deleted = looked + 1, deleted + len(keys)
            if monotonic() > until:
                break
        connection.executemany(_DELETE_FOLDER, [(folder,) for folder in folders])
    return looked, deleted


def _find_deletable(connection: sqlite3.Connection, instance: Instance, received_before: str) -> list[str]:
    """Return the keys of all contents of an instance, [] if one of them has to stay."""
    query, values = _CONTENTS, [instance.sop_instance_uid, instance.sop_class_uid]
    if instance.s3_key:
        query, values = "SELECT s3_key, state, received_at FROM received WHERE s3_key = ?", [instance.s3_key]
    keys = []
    for key, state, received_at in connection.execute(query, values).fetchall():
        is_closed = connection.execute(_IS_CLOSED, (key.rpartition("/")[0],)).fetchone()
        if state != State.DURABLE or received_at >= received_before or not is_closed:
            return []
        keys.append(key)
    return keys


def _delete_rows(connection: sqlite3.Connection, instance: Instance, keys: Sequence[str]) -> None:
    for key in keys:
        connection.execute(_DELETE_NEWEST, (instance.sop_instance_uid, instance.sop_class_uid, key))
        connection.execute("DELETE FROM received WHERE s3_key = ?", (key,))
