"""The spool: files of objects on the local disk, and the order of calls that makes them survive a power cut.

``incoming/`` has what is being received and is emptied at a start: nothing in it was acknowledged. ``spool/`` has whole
objects under names that say where they belong. A file comes there by a rename after its bytes are flushed, and the
folder is flushed before the object is acknowledged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import count
from threading import Condition
from time import monotonic
from typing import TYPE_CHECKING

from airlock_edge.keys import Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DISK_SECONDS = 1.0  # between two looks at the use of the disk


class SpoolFolderError(OSError):
    """The state folder cannot be used."""


@dataclass
class _Flushes:
    """The flushes of the folder: how many began, how many ended, and the last one that failed."""

    begun: int = 0
    ended: int = 0
    failed: int = 0
    error: OSError | None = None


class Spool:
    """The folders of one edge.

    Parameters
    ----------
    state
        The edge's state folder.
    """

    def __init__(self, state: Path) -> None:
        self.incoming = state / "incoming"
        self.ready = state / "spool"
        self.damaged = state / "damaged"
        self._state = state
        self._numbers = count(1)
        self._changed = Condition()
        self._flushes = _Flushes()
        self._used: tuple[float, float] = (-_DISK_SECONDS, 0.0)

    def prepare(self) -> int:
        """Make the folders, and remove what was half received; return the number of objects that wait for S3.

        Raises
        ------
        SpoolFolderError
            If a folder cannot be made or emptied.
        """
        try:
            for folder in (self.incoming, self.ready, self.damaged):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self.incoming.iterdir():
                path.unlink()
            _flush_folder(self._state)
            return sum(1 for _ in self.waiting())
        except OSError as error:
            raise SpoolFolderError(
                f"the state folder cannot be used ({os.strerror(error.errno or 0)}): give it to the edge's user"
            ) from None

    def open_incoming(self) -> tuple[Path, int]:
        """Return a new file below ``incoming/``, open for writing."""
        path = self.incoming / f"{os.getpid()}-{next(self._numbers)}.part"
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def keep(self, path: Path, place: Place) -> Path:
        """Move a flushed file into the spool, and return when the folder is flushed, together with those of others."""
        kept = self.ready / place.name
        path.rename(kept)
        self._flush_ready()
        return kept

    def _flush_ready(self) -> None:
        """Return when a flush of the folder has ended that began after this call.

        Raises
        ------
        OSError
            In each thread that waits for a flush that fails, not only in the one that does it.
        """
        flushes = self._flushes
        with self._changed:
            needed = flushes.begun + 1
            while flushes.ended < needed:
                if flushes.begun == flushes.ended:  # no flush is under way: this thread does the next one
                    flushes.begun += 1
                    break
                self._changed.wait()
            else:
                if flushes.error is not None and flushes.failed >= needed:
                    raise OSError(flushes.error.errno, "the spool's folder cannot be flushed")
                return
        self._do_flush()

    def _do_flush(self) -> None:
        error = None
        try:
            _flush_folder(self.ready)
        except OSError as raised:
            error = raised
            raise
        finally:
            with self._changed:
                self._flushes.ended += 1
                if error is not None:
                    self._flushes.failed, self._flushes.error = self._flushes.ended, error
                self._changed.notify_all()

    def waiting(self) -> Iterator[os.DirEntry[str]]:
        """Yield the files that wait for S3."""
        with os.scandir(self.ready) as entries:
            for entry in entries:
                if Place.parse(entry.name) is not None:
                    yield entry

    def used_percent(self) -> float:
        """Return how much of the disk is used, as an ordinary user sees it; looked up once in a second."""
        at, percent = self._used
        if monotonic() - at >= _DISK_SECONDS:
            disk = os.statvfs(self._state)
            used = disk.f_blocks - disk.f_bfree
            percent = 100 * used / max(1, used + disk.f_bavail)
            self._used = (monotonic(), percent)
        return percent


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
