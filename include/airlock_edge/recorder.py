"""Writes rows of the book in groups: one flush of the disk for all objects that came meanwhile."""

from __future__ import annotations

import logging
import sqlite3
from threading import Condition, Thread
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from airlock_edge.book import Book, Received

_log = logging.getLogger(__name__)
_GATHER_SECONDS = 0.2  # in which rows that nobody waits for come together: each flush keeps the disk from the objects


class BookError(OSError):
    """The book cannot be written."""


class Recorder:
    """A thread that writes rows; a context manager, which writes the rest at its end.

    Parameters
    ----------
    book
        The book.
    arrived
        Whether the objects came just now (`Book.add`).
    """

    def __init__(self, book: Book, *, arrived: bool = True) -> None:
        self._book = book
        self._arrived = arrived
        self._changed = Condition()
        self._waiting: list[Received] = []
        self._refused: list[Received] = []  # by the disk: older than those that wait, and written before them
        self._asks_again = False  # a caller wants them to be tried now
        self._added = self._written = 0  # rows
        self._awaited: set[int] = set()  # rows for which a caller waits
        self._failed: set[int] = set()  # those of them that could not be written, until their callers know
        self._waited_for = 0  # by so many callers
        self._ending = False
        self._thread = Thread(target=self._run, name="recorder")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()

    def add(self, row: Received) -> int:
        """Write a row soon; return its number."""
        with self._changed:
            self._waiting.append(row)
            self._added += 1
            self._changed.notify_all()
            return self._added

    def write(self, row: Received) -> None:
        """Write a row and return when it is flushed.

        Raises
        ------
        BookError
            If the disk does not take it.
        """
        with self._changed:
            number = self.add(row)
            self._awaited.add(number)
            self._wait_until_written(number)
            self._awaited.discard(number)
            if number in self._failed:
                self._failed.discard(number)
                raise BookError("the book cannot be written: see the log")

    def flush(self) -> bool:
        """Return when all rows that were added before are flushed; False if the disk refuses some of them.

        The objects of rows that are refused are in the spool. Their rows are tried again with the next ones.
        """
        with self._changed:
            self._wait_until_written(self._added)
            if self._refused:
                self._asks_again = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._asks_again)
            return not self._refused

    def _wait_until_written(self, number: int) -> None:
        """Wait under the lock; the thread gathers no further rows meanwhile."""
        self._waited_for += 1
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._written >= number)
        self._waited_for -= 1

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._asks_again or self._ending)
                self._changed.wait_for(lambda: self._waited_for or self._asks_again or self._ending, _GATHER_SECONDS)
                rows, self._waiting = self._waiting, []
                first, asked = self._written, self._asks_again
            if not rows and not asked:
                return
            failed = self._write([*self._refused, *rows])
            with self._changed:
                self._written = first + len(rows)
                self._note_outcome(rows, first, failed=failed)
                self._asks_again = self._asks_again and not asked
                self._changed.notify_all()

    def _note_outcome(self, rows: list[Received], first: int, *, failed: bool) -> None:
        """Under the lock: keep what the disk refused, but for rows whose callers are told so and refuse the object."""
        if not failed:
            self._refused = []
            return
        awaited = {number for number in self._awaited if first < number <= self._written}
        self._failed |= awaited
        self._refused += [row for number, row in enumerate(rows, first + 1) if number not in awaited]

    def _write(self, rows: list[Received]) -> bool:
        try:
            self._book.add(rows, arrived=self._arrived)
        except sqlite3.Error as error:
            _log.error("%d rows cannot be written into the book (%s)", len(rows), error)
            return True
        return False
