"""The spool: files of objects on the local disk, and the order of calls that makes them survive a power cut.

``incoming/`` has what is being received and is emptied at a start: nothing in it was acknowledged. ``spool/`` has whole
objects under names that say where they belong. A file comes there by a rename after its bytes are flushed, and the
folder is flushed before the object is acknowledged.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import contextmanager, suppress
from errno import EIO
from itertools import count
from threading import Condition, Thread
from time import monotonic
from typing import TYPE_CHECKING

from airlock_edge.keys import Place
from airlock_edge.reserve import Reserve
from airlock_edge.start_error import EdgeStartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)
_DISK_SECONDS = 1.0  # between two looks at the use of the disk


class SpoolFolderError(EdgeStartError):
    """The state folder cannot be used."""


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
        self._flusher = _Flusher(self.ready)
        self.reserve = Reserve(state)
        self._used: tuple[float, float, bool] = (-_DISK_SECONDS, 0.0, True)

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
            self._flusher.start()
            return sum(1 for _ in self.waiting())
        except OSError as error:
            raise SpoolFolderError(
                f"state: {self._state} cannot be used ({os.strerror(error.errno or 0)}): give it to the edge's user"
            ) from None

    def open_incoming(self) -> tuple[Path, int]:
        """Return a new file below ``incoming/``, open for writing."""
        path = self.incoming / f"{os.getpid()}-{next(self._numbers)}.part"
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def keep(self, path: Path, file: int, place: Place) -> Path:
        """Move a written file into the spool, and return its new path when its bytes and its name are flushed.

        Both are flushed at the same time, which takes half as long as one after the other. A power cut meanwhile may
        leave the name without the bytes: nobody was told yet that the object is safe. So the name must be new. A file
        of this name is the same object, which may have been acknowledged: it is replaced by flushed bytes only.

        Parameters
        ----------
        path, file
            The file below ``incoming/`` and its descriptor.
        place
            Where the object belongs.

        Raises
        ------
        OSError
            If a flush fails. The file may be in the spool then, and is uploaded like any other.
        """
        kept = self.ready / place.name
        try:
            kept.hardlink_to(path)
        except OSError:  # the name is there, or the file system has no links
            os.fdatasync(file)
            with self.hold_names():
                path.rename(kept)
            self._flusher.wait(self._flusher.ask())
            return kept
        number = self._flusher.ask()
        try:
            os.fdatasync(file)
        finally:
            self._flusher.wait(number)
        with suppress(OSError):  # its other name, which the next start removes
            path.unlink()
        return kept

    @contextmanager
    def hold_names(self) -> Iterator[None]:
        """Let nobody else replace a file of the spool or set one aside while the block runs, in any process."""
        descriptor = os.open(self._state / "names.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """End the thread that flushes."""
        self._flusher.close()

    def waiting(self) -> Iterator[os.DirEntry[str]]:
        """Yield the files that wait for S3."""
        with os.scandir(self.ready) as entries:
            for entry in entries:
                if Place.parse(entry.name) is not None:
                    yield entry

    def used_percent(self) -> float:
        """Return how much of the disk is used, as an ordinary user sees it; looked up once in a second.

        The reserve counts as used also while it is given up, from that moment on.
        """
        at, percent, had_reserve = self._used
        has_reserve = self.reserve.is_there
        if monotonic() - at >= _DISK_SECONDS or has_reserve is not had_reserve:
            disk = os.statvfs(self._state)
            used = disk.f_blocks - disk.f_bfree
            missing = 0 if has_reserve else self.reserve.size / disk.f_frsize
            percent = min(100.0, 100 * (used + missing) / max(1, used + disk.f_bavail))
            self._used = (monotonic(), percent, has_reserve)
        return percent


class _Flusher:
    """A thread that flushes a folder for all that ask meanwhile.

    Parameters
    ----------
    folder
        The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = Condition()
        self._asked = self._done = 0
        self._awaited: set[int] = set()  # numbers that were given and not waited for so far
        self._failed: set[int] = set()  # those of them whose flush has failed, until their callers know
        self._ending = False
        self._thread: Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="flusher", daemon=True)
            self._thread.start()

    def ask(self) -> int:
        """Ask for a flush that begins after this call; return its number, for which the caller must `wait`."""
        with self._changed:
            self._asked += 1
            self._awaited.add(self._asked)
            self._changed.notify_all()
            return self._asked

    def wait(self, number: int) -> None:
        """Return when the flush has ended.

        Raises
        ------
        OSError
            If it has failed: for each caller that waited for it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._done >= number)
            self._awaited.discard(number)
            if number in self._failed:
                self._failed.discard(number)
                raise OSError(EIO, "the spool's folder cannot be flushed")

    def close(self) -> None:
        """End the thread, after what was asked for."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._done or self._ending)
                first, last = self._done, self._asked
            if first == last:
                return
            failed = self._flush()
            with self._changed:
                self._done = last
                if failed:
                    self._failed |= {number for number in self._awaited if first < number <= last}
                self._changed.notify_all()

    def _flush(self) -> bool:
        try:
            _flush_folder(self._folder)
        except OSError as error:
            _log.error("the spool's folder cannot be flushed (%s)", error.strerror)
            return True
        return False


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
