"""The cooperative scheduler: runs are threads of which one goes on at a time, from one call to the next.

A call of a run to the ledger, S3 or AWS is a point. There the run waits if its steps are used up, or is killed. No
point lies within a transaction of the ledger except for a kill: other runs would wait for its lock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 120.0  # seconds without a point: a deadlock or an endless loop


class Killed(BaseException):
    """The end of a worker: its task does nothing any more, not even cleaning up."""


class StuckError(RuntimeError):
    """A run neither reaches a point nor ends."""


@dataclass(frozen=True)
class Site:
    """A place in the code that calls out, as seen from a stage."""

    stage: str
    call: str  # for example ledger.settle
    where: str  # for example imaging/audit.py:423

    def __str__(self) -> str:
        return f"{self.stage} {self.call} {self.where}"

    def matches(self, text: str) -> bool:
        """Return whether this is a point that a history names, which may leave out the line."""
        return text.startswith(self.stage) and (str(self) == text or str(self).startswith(f"{text}:"))


@dataclass
class Actor:
    """One run's thread.

    Parameters
    ----------
    name
        The run.
    watch
        Called at every point, before the call is made.
    """

    name: str
    watch: Callable[[Actor, Site], None]
    stage: str = ""
    alive: bool = False
    reached: int = 0  # points since the history began
    locks: int = 0  # open calls of the ledger
    at: Site | None = None  # where it waits
    error: BaseException | None = None
    _left: int | None = None  # points until it waits; None: to its end
    _until: str = ""  # the stage before which it waits
    _at: str = ""  # the point at which it waits
    _fatal: bool = False
    _killed: bool = False
    _mine: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _directors: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def begin(self, work: Callable[[], None]) -> None:
        """Make the thread, which waits at once."""
        self.alive, self._killed, self.at, self.locks, self.error = True, False, None, 0, None
        threading.Thread(target=self._run, args=(work,), name=self.name, daemon=True).start()

    def go(self, points: int | None, *, fatal: bool = False, until: str = "", at: str = "") -> None:
        """Let the run go on to its end, for this many points, up to a stage or a point; wait until it is there.

        There it waits, or is killed if *fatal*.
        """
        if not self.alive:
            return
        self._left, self._fatal, self._until, self._at = points, fatal, until, at
        self._mine.release()
        if not self._directors.acquire(timeout=_PATIENCE):
            raise StuckError(f"{self.name} has been within {self.stage} after {self.at} for {_PATIENCE:g} seconds")

    def kill(self) -> None:
        """Kill the run where it waits."""
        if self.alive:
            self._killed = True
            self.go(None)

    def _run(self, work: Callable[[], None]) -> None:
        self._mine.acquire()
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # the director decides
            self.error = error
        finally:
            self.alive = False
            self._directors.release()

    def _is_there(self, site: Site) -> bool:
        """Return whether the run has come as far as it may."""
        if self._at:
            return site.matches(self._at)
        if self._until:
            return site.stage == self._until
        if self._left is not None:
            self._left -= 1
        return self._left is not None and self._left <= 0

    def point(self, site: Site) -> None:
        """Note that the run is about to call out; wait or die here if the director said so."""
        if self._killed:
            raise Killed
        self.reached += 1
        self.at = site
        self.watch(self, site)
        if not self._is_there(site):
            return
        if self._fatal:
            self._killed = True
            raise Killed
        if not self.locks:
            self._directors.release()
            self._mine.acquire()
            if self._killed:
                raise Killed
