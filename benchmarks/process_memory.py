"""The memory of all processes of a local stack, tasks included, polled while a command runs.

The peak of a process is the kernel's own (``VmHWM`` in proc(5), /proc/pid/status), as of the last look; pages that it
shares with the process that it was forked from count in each. ``together`` counts shared pages once (``Pss``).
"""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK_EVERY, _SUM_EVERY = 0.2, 2.0  # seconds
_TASK = re.compile(r"airflow worker -- ([0-9a-f-]{36})")  # Airflow names a task's process for the task instance
_WORKER = "airflow worker -- LocalExecutor"
TASK, COMMAND = "task ", "make run"


@dataclass
class Peaks:
    """What was seen: the most MiB of a process of each name, how many processes had it, and of all together."""

    by_name: dict[str, int] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)
    together: int = 0
    _of_process: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)  # pid and start: name, KiB

    def note(self, process: tuple[str, str], name: str, kib: int) -> None:
        """Note what a process has needed so far; its name may have changed since the last look."""
        self._of_process[process] = (name, kib)

    def sum_up(self, tasks: dict[str, str]) -> None:
        """Fill in the figures by name; *tasks* has the name of each task instance."""
        for name, kib in self._of_process.values():
            shown = f"{TASK}{tasks.get(name.removeprefix(TASK), 'of a first try')}" if name.startswith(TASK) else name
            self.by_name[shown] = max(self.by_name.get(shown, 0), kib // 1024)
            self.processes[shown] = self.processes.get(shown, 0) + 1


@contextmanager
def watched(records: Path, command: int) -> Iterator[Peaks]:
    """Watch the processes of a stack within the block.

    Parameters
    ----------
    records
        The folder in which the stack records its processes, each of which has a session of its own.
    command
        The pid of the command that starts the stack.
    """
    peaks, ended = Peaks(), threading.Event()

    def watch() -> None:
        next_sum = 0.0
        while not ended.wait(_LOOK_EVERY):
            sums = time.monotonic() >= next_sum
            pss = _look(peaks, _name_sessions(records), command, sums=sums)
            if sums:
                peaks.together = max(peaks.together, pss // 1024)
                next_sum = time.monotonic() + _SUM_EVERY

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _name_sessions(records: Path) -> dict[str, str]:
    """Return the names of the stack's parts by their session."""
    found = {}
    for path in records.glob("[!.]*.json"):
        with suppress(OSError, ValueError):  # it is being written, or its part has ended
            found[str(json.loads(path.read_text())["pid"])] = path.stem
    return found


def _look(peaks: Peaks, sessions: dict[str, str], command: int, *, sums: bool) -> int:
    """Note the peak of each process, and return the KiB of all together if asked."""
    together = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # a process may end at any time
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            session, started = fields[3], fields[19]
            if folder.name != str(command) and session not in sessions:
                continue
            peak = _read_kib(folder / "status", "VmHWM:")
            leads = session == folder.name
            peaks.note((folder.name, started), _name_process(folder, sessions.get(session), leads=leads), peak)
            together += _read_kib(folder / "smaps_rollup", "\nPss:") if sums else 0
    return together


def _name_process(folder: Path, part: str | None, *, leads: bool) -> str:
    if part is None:
        return COMMAND
    title = (folder / "cmdline").read_bytes().decode(errors="replace")
    if task := _TASK.search(title):
        return TASK + task[1]
    if _WORKER in title:
        return "worker, supervising tasks"
    return part if leads else f"{part}, child"


def _read_kib(path: Path, name: str) -> int:
    return int(path.read_text(encoding="ascii").partition(name)[2].split()[0])
