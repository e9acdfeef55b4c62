"""The time that requests have waited: the edge's own count of seconds, which no change of the wall clock moves.

Within one boot of the machine, seconds are those of CLOCK_BOOTTIME, also while no edge ran. The count stands still
while the machine is off: nobody can know how long that was if the wall clock may have been set. So a request is
answered later than it should be, and never earlier.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux: another one after each boot


def read_boot_id() -> str:
    """Return the name of the machine's present boot."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def read_boot_time() -> float:
    """Return the seconds since the machine was started, those in which it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Clock:
    """Counts seconds; kept in a table of one row.

    Parameters
    ----------
    boot_id, boot_time
        How to ask the machine.
    """

    boot_id: Callable[[], str] = read_boot_id
    boot_time: Callable[[], float] = read_boot_time
    _base: float = 0.0  # the count at boot time 0
    _boot: str = ""  # the present boot, read once: later the process may have used up its file descriptors

    def load(self, connection: sqlite3.Connection) -> None:
        """Go on from the count that was kept."""
        kept = connection.execute("SELECT boot_id, boot_time, seconds FROM clock").fetchone()
        now, self._boot = self.boot_time(), self.boot_id()
        boot_id, at, seconds = kept or ("", 0.0, 0.0)
        passed = max(0.0, now - at) if boot_id == self._boot else 0.0
        self._base = seconds + passed - now

    def now(self) -> float:
        """Return the count."""
        return self._base + self.boot_time()

    def keep(self, connection: sqlite3.Connection) -> None:
        """Keep the count, within the caller's transaction."""
        at = self.boot_time()
        row = 1, self._boot, at, self._base + at
        connection.execute("INSERT OR REPLACE INTO clock (one, boot_id, boot_time, seconds) VALUES (?, ?, ?, ?)", row)
