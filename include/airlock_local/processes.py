"""Processes that outlive the command that started them.

Each runs in a session of its own and has a record of its pid and its start, so that a reused pid is never signalled.
Processes that it forks stay in its session, in whatever process group, and are ended with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LOOK_EVERY = 0.05  # seconds
_ORPHANS_END_WITHIN = 2.0  # seconds for processes whose parent is gone
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_start(pid: int) -> str | None:
    """Return the start of a process, as a text that no other process of this pid has; None if it does not run.

    On Linux this is the kernel's own count since boot beside the boot's id, which setting the clock does not change.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if sys.platform != "linux":
            return f"{process.create_time():.2f}"
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return f"{_BOOT_ID.read_text().strip()} {after_name.split()[19]}"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


@dataclass(frozen=True)
class Running:
    """A process that was started here.

    Parameters
    ----------
    pid
        Its id, and its session's.
    started
        As `read_start` returns it.
    fingerprint
        Of its settings and code; if it changes, the process must be started anew.
    log
        File of its output.
    patience
        Seconds that it gets to end after SIGTERM.
    """

    pid: int
    started: str
    fingerprint: str
    log: str
    patience: float = 15

    def is_alive(self) -> bool:
        """Return whether this process still runs, and not another one of its pid."""
        return read_start(self.pid) == self.started

    def members(self) -> list[psutil.Process]:
        """Return the live processes of its session, itself included; none after a reboot."""
        if not self.is_alive() and (read_start(self.pid) is not None or not self._same_boot()):
            return []  # the pid was reused, so the session has no members: they would have prevented the reuse
        return [
            process for process in psutil.process_iter() if _session(process.pid) == self.pid and _is_alive(process)
        ]

    def _same_boot(self) -> bool:
        return not _BOOT_ID.exists() or self.started.startswith(_BOOT_ID.read_text().strip())

    def listens_on(self, port: int) -> bool:
        """Return whether one of its session's processes listens on a TCP port."""
        for process in self.members():
            try:
                connections = process.net_connections("tcp")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it has ended, or runs as another user and is not part of the stack
            if any(item.status == psutil.CONN_LISTEN and item.laddr.port == port for item in connections):
                return True
        return False

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of its log, indented."""
        path = Path(self.log)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-lines:])


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def launch(
    argv: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
    *,
    fingerprint: str = "",
    patience: float = 15,
) -> tuple[Running, subprocess.Popen[bytes]]:
    """Start a process in a session of its own, with its output in ``log``; the previous log is kept beside it.

    Returns
    -------
    running
        The process to record.
    command
        Its handle, for the exit status.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".previous.log"))
    with log.open("wb") as output:
        command = subprocess.Popen(  # noqa: S603  # our own commands
            argv,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(command.pid, read_start(command.pid) or "", fingerprint, str(log), patience), command


def end_processes(processes: Sequence[Running]) -> None:
    """End processes and those that they forked: SIGTERM first, then SIGKILL after their patience."""
    for process in processes:
        if process.is_alive():  # it ends its children itself
            _signal(psutil.Process(process.pid), signal.SIGTERM)
    began = time.monotonic()
    while any(process.is_alive() and time.monotonic() < began + process.patience for process in processes):
        time.sleep(_LOOK_EVERY)
    left = [member for process in processes for member in process.members()]
    leaders = {process.pid for process in processes}
    for member in left:
        _signal(member, signal.SIGKILL if member.pid in leaders else signal.SIGTERM)
    _wait_until_gone(left)
    for process in processes:
        for member in process.members():
            _signal(member, signal.SIGKILL)
    _wait_until_gone(left)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # psutil checks that the pid is still the same process
    except psutil.NoSuchProcess:
        return


def _wait_until_gone(processes: Sequence[psutil.Process]) -> None:
    until = time.monotonic() + _ORPHANS_END_WITHIN
    while time.monotonic() < until and any(process.is_running() and _is_alive(process) for process in processes):
        time.sleep(_LOOK_EVERY)


class Records:
    """The records of a folder, one file per process.

    Parameters
    ----------
    folder
        Made at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, process: Running) -> None:
        """Record a process under a name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = self.folder / f".{name}.json.new"
        whole.write_text(json.dumps(asdict(process), indent=1))
        whole.replace(self.folder / f"{name}.json")

    def read(self) -> dict[str, Running]:
        """Return all recorded processes by name, running or not."""
        if not self.folder.is_dir():
            return {}
        paths = sorted(self.folder.glob("*.json"))
        return {path.stem: Running(**json.loads(path.read_text())) for path in paths}

    def forget(self, name: str) -> None:
        """Remove a record."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)
