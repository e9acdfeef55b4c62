"""The CPU of a running stack, by its parts, and of Airflow's workers by the task that they ran."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock_local.stack import Stack

_EVERY = 0.5  # seconds; Airlock's tasks take longer
_INSTANCE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # a task instance's id, in a worker's title
_WORKER = "LocalExecutor"


class Usage:
    """The CPU seconds of a stack since it was made.

    A worker's title names the task instance that it runs, and the CPU of a task's process becomes the worker's when the
    task has ended. So what a worker has used since the last look goes to the task of the last look.

    Parameters
    ----------
    stack
        Started before.
    """

    def __init__(self, stack: Stack) -> None:
        self.by_instance: defaultdict[str, float] = defaultdict(float)
        self._processes = {name: psutil.Process(part.pid) for name, part in stack.records.read().items()}
        self._workers = [
            child
            for child in self._processes["scheduler"].children()
            if _WORKER in " ".join(child.cmdline())  # they live as long as the scheduler
        ]
        self._before = {worker.pid: _look(worker) for worker in self._workers}
        self._parts_before = self._measure_parts()
        self._ended = threading.Event()

    def look(self) -> None:
        """Add what the workers have used since the last look."""
        for worker in self._workers:
            with suppress(psutil.NoSuchProcess):
                title, used = _look(worker)
                title_before, used_before = self._before[worker.pid]
                self.by_instance[title_before or title] += used - used_before
                self._before[worker.pid] = title, used

    def by_part(self) -> dict[str, float]:
        """Return the CPU seconds of each part of the stack; of the scheduler without its workers."""
        now = self._measure_parts()
        return {name: round(seconds - self._parts_before[name], 1) for name, seconds in now.items()}

    def _measure_parts(self) -> dict[str, float]:
        return {name: _own_seconds(process) for name, process in self._processes.items()}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look all the time, within the block."""
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._ended.set()
            watcher.join()
            self.look()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self.look()


def _look(worker: psutil.Process) -> tuple[str, float]:
    """Return the id of the task instance that a worker runs, empty without one, and its CPU seconds."""
    with worker.oneshot():
        found = _INSTANCE.search(" ".join(worker.cmdline()))
        return found[0] if found else "", _total(worker)


def _total(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of its children that have ended."""
    used = process.cpu_times()
    return float(used.user + used.system + used.children_user + used.children_system)


def _own_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of all below it, but for workers."""
    living = [child for child in process.children() if _WORKER not in " ".join(child.cmdline())]
    return _total(process) + sum(map(_own_seconds, living))
