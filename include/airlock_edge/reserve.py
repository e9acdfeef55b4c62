"""The reserve: bytes of the disk that are given up when it is full, so that rows can be written and files leave.

A file leaves the spool when its row is flushed. On a disk that is full to its last byte no row can be written, so the
spool would never drain. The reserve is a file whose bytes are allocated. It counts as used while it is given up, so
that objects are refused until there is room for it and its bytes are left to the rows.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)
_MOST: Final = 8 * 1024 * 1024  # twice what SQLite lets a write-ahead log grow to (1,000 pages of 4 KiB)
_SHARE: Final = 16  # of a small disk it takes no more than one in so many bytes
# No space, no space for the log's index, and what SQLite makes of EDQUOT (a user's quota).
_FULL: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_WRITE}


class Reserve:
    """The reserve of one edge; several processes may give it up.

    Parameters
    ----------
    state
        The edge's state folder.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._path = state / "reserve"

    @property
    def size(self) -> int:
        """Its size in bytes, as the disk's size allows."""
        disk = os.statvfs(self._state)
        return min(_MOST, disk.f_blocks * disk.f_frsize // _SHARE)

    @property
    def is_there(self) -> bool:
        """Whether the file is there."""
        return self._path.exists()

    def begin(self) -> None:
        """Give it up before the book is opened if hardly a byte is free: SQLite needs some for its files."""
        disk = os.statvfs(self._state)
        if disk.f_bavail * disk.f_frsize < self.size // 4:
            self.give_up()

    def make(self) -> bool:
        """Make the file; return False if the disk does not give the bytes."""
        part = self._path.with_name("reserve.part")
        try:
            with part.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.size)
                os.fsync(file.fileno())
            part.rename(self._path)
        except OSError as error:
            part.unlink(missing_ok=True)
            _log.warning("the disk has no room for the reserve of the state folder (%s)", error.strerror)
            return False
        return True

    def give_up(self) -> None:
        """Give the bytes back to the disk, for the rows of what leaves the spool."""
        try:
            self._path.unlink()
        except FileNotFoundError:  # another thread or process was faster
            return
        except OSError as error:  # a disk that is broken or read-only: the caller's own error is the one that counts
            _log.error("the reserve cannot be given up (%s)", error.strerror)
            return
        _log.error("the disk is full: the reserve is given up, and objects are refused until there is room for it")

    @contextmanager
    def transaction(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Make a block one transaction, which is flushed when it ends; a full disk gives up the reserve.

        The caller tries again, as after each failure.

        Raises
        ------
        sqlite3.Error
            If the disk does not take it; nothing of the block is written then.
        """
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except BaseException as error:
            if getattr(error, "sqlite_errorcode", None) in _FULL:  # sqlite3's own errors (a closed book) have none
                self.give_up()
            if connection.in_transaction:  # SQLite ends it itself after some errors, and not after others
                connection.execute("ROLLBACK")
            raise
