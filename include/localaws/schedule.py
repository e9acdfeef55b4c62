"""A durable to-do list: due steps are run; steps that a restart interrupted are run again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from localaws.errors import log_defect

if TYPE_CHECKING:
    import sqlite3
    from concurrent.futures import Executor

    from localaws.state import State

Step = Callable[[str], float | None]
"""Does one step for a subject; return the seconds until its next step, or None when nothing is left to do."""

RETRY_SECONDS = 1.0


class InterruptedStepError(Exception):
    """The emulator stops; the step is done again after the next start."""


class Schedule:
    """Runs the rows of the ``todo`` table when they are due.

    A row stays until its step returns None, so a killed process does the interrupted step again: every step must give
    the same result when it is repeated.

    Parameters
    ----------
    state : State
    executor : Executor
        Where the steps run; its size bounds how many run at once.
    """

    def __init__(self, state: State, executor: Executor) -> None:
        self._state = state
        self._executor = executor
        self._steps: dict[str, Step] = {}
        self._running: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()

    def on(self, kind: str, step: Step) -> None:
        """Name the step that serves `kind`."""
        self._steps[kind] = step

    def add(self, connection: sqlite3.Connection, kind: str, subject: str, seconds: float) -> None:
        """Add a row inside the caller's transaction; call `wake` when that transaction is committed."""
        connection.execute("INSERT OR REPLACE INTO todo VALUES (?, ?, ?)", (kind, subject, time.time() + seconds))

    def wake(self) -> None:
        """Look at the table again soon; any thread may call this."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._changed.set)

    def stop(self) -> None:
        """Make long steps give up at their next `check`."""
        self._stopping.set()

    def check(self) -> None:
        """Raise InterruptedStepError if the emulator stops; for steps that take long."""
        if self._stopping.is_set():
            raise InterruptedStepError

    async def run(self) -> None:
        """Run due rows until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as steps:
            while True:
                self._changed.clear()
                due, wait = self._look()
                for kind, subject in due:
                    self._running.add((kind, subject))
                    steps.create_task(self._step(kind, subject))
                try:
                    await asyncio.wait_for(self._changed.wait(), wait)
                except TimeoutError:
                    continue

    def _look(self) -> tuple[list[tuple[str, str]], float | None]:
        with self._state.read() as connection:
            rows = connection.execute("SELECT kind, subject, due_at FROM todo ORDER BY due_at").fetchall()
        idle = [row for row in rows if (row["kind"], row["subject"]) not in self._running]
        now = time.time()
        due = [(row["kind"], row["subject"]) for row in idle if row["due_at"] <= now]
        later = [row["due_at"] - now for row in idle if row["due_at"] > now]
        return due, min(later, default=None)

    async def _step(self, kind: str, subject: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._executor, self._do, kind, subject)
        finally:
            self._running.discard((kind, subject))
            self._changed.set()

    def _do(self, kind: str, subject: str) -> None:
        try:
            seconds = self._steps[kind](subject)
        except InterruptedStepError:
            return
        except Exception as error:  # noqa: BLE001 - one broken step must not stop every other job
            log_defect(f"step {kind} of {subject}", error)
            seconds = RETRY_SECONDS
        with self._state.write() as connection:
            if seconds is None:
                connection.execute("DELETE FROM todo WHERE kind = ? AND subject = ?", (kind, subject))
            else:
                self.add(connection, kind, subject, seconds)
