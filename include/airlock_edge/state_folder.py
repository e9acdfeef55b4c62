"""The state folder: its rights, and the lock that gives it to one edge."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from airlock_edge.spool import SpoolFolderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "lock"


@contextmanager
def hold_state_folder(state: Path) -> Iterator[None]:
    """Make the state folder, and let no other edge use it while the block runs; the lock ends with the process.

    A second edge would empty ``incoming/`` under the first, and its files there may have the same names: in containers
    each edge is process 1. The folder is readable by the edge's user only, since the book has UIDs.

    Raises
    ------
    SpoolFolderError
        If another edge uses the folder, or it cannot be made or locked.
    """
    descriptor = _open_lock(state)
    try:
        _lock(descriptor, state)
        yield
    finally:
        os.close(descriptor)


def _open_lock(state: Path) -> int:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(PermissionError):  # a volume that belongs to another user
            state.chmod(0o700)
        return os.open(state / LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpoolFolderError(
            f"state: {state} cannot be used ({os.strerror(error.errno or 0)}): give it to the edge's user"
        ) from None


def _lock(descriptor: int, state: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SpoolFolderError(
            f"state: another edge uses {state}: stop it, or give this edge a folder of its own"
        ) from None
    except OSError as error:  # for example NFS without a lock service; SQLite needs locks, too
        raise SpoolFolderError(
            f"state: {state} cannot be locked ({os.strerror(error.errno or 0)}): put it on a local disk"
        ) from None
