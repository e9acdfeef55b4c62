"""Counts the calls with side effects of an edge's process, and kills the process before or after one of them.

It replaces functions of the standard library and of botocore in the child process, so that the edge needs no hook:
files and folders (os), rows (sqlite3), objects (botocore), and what is sent to peers (socket).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import sqlite3
import stat
import sys
from dataclasses import asdict, dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ON_PATHS = ("mkdir", "rename", "replace", "unlink", "remove", "link", "rmdir", "truncate")
_ON_FILES = ("fsync", "fdatasync", "write", "ftruncate")
_OPERATIONS = ("Put", "Create", "Upload", "Complete", "Abort", "Delete", "Send", "Receive")


@dataclass(frozen=True)
class Plan:
    """What a child does.

    Attributes
    ----------
    role
        ``run`` or ``upload``: in which processes calls are counted.
    port
        Where the edge listens: what is sent from there goes to peers.
    log
        A file that gets a line for each call.
    at, side
        The number of the call, from 1, at which the process is killed, and ``before`` or ``after``; 0 for none.
    marker
        A file that is made by the kill; where it exists, nothing is killed any more.
    results_port
        Where a peer listens for commitment results: what is sent there goes to it, too.
    """

    role: str
    port: int
    log: str
    at: int = 0
    side: str = "before"
    marker: str = ""
    results_port: int = 0

    def encode(self) -> str:
        """Return what the environment variable EDGE_CALLS has."""
        return json.dumps(asdict(self))


class Counter:
    """Counts calls, and kills at one.

    Parameters
    ----------
    plan
        The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = Lock()
        self._calls = 0
        self._log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._write, self._open = os.write, os.open  # those of the system, which are replaced below

    def run(self, name: str, call: Callable[[], Any]) -> Any:
        """Make a call, with the kill before or after it."""
        with self._lock:
            self._calls += 1
            number = self._calls
            self._write(self._log, f"{number} {name}\n".encode())
        if number == self._plan.at and self._plan.side == "before":
            self._kill()
        answer = call()
        if number == self._plan.at and self._plan.side == "after":
            self._kill()
        return answer

    def _kill(self) -> None:
        try:
            self._open(self._plan.marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def read_calls(log: Path) -> list[str]:
    """Return the names of the counted calls in their order."""
    return [line.split(" ", 1)[1] for line in log.read_text().splitlines()]


def install(encoded: str) -> None:
    """Count the calls of this process, if the plan is about its role."""
    plan = Plan(**json.loads(encoded))
    arguments = sys.orig_argv
    if "airlock_edge" not in arguments or plan.role not in arguments:
        return
    counter = Counter(plan)
    _replace_os(counter)
    _replace_sqlite(counter)
    _replace_botocore(counter)
    _replace_socket(counter, plan.port)
    _replace_send(counter, plan.results_port)


def _replace_os(counter: Counter) -> None:
    for name in _ON_PATHS:
        setattr(os, name, _counted(counter, name, getattr(os, name)))
    for name in _ON_FILES:
        setattr(os, name, _counted_on_file(counter, name, getattr(os, name)))
    opened = os.open

    @functools.wraps(opened)
    def open_(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if not flags & os.O_CREAT:
            return opened(path, flags, *rest, **more)
        return int(counter.run("open", lambda: opened(path, flags, *rest, **more)))

    os.open = open_


def _counted(counter: Counter, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        return counter.run(name, lambda: function(*given, **named))

    return call


def _counted_on_file(counter: Counter, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Count the calls on files and folders; pipes and terminals have no lasting effect."""

    @functools.wraps(function)
    def call(descriptor: int, *rest: Any) -> Any:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return function(descriptor, *rest)
        kind = "folder" if stat.S_ISDIR(mode) else "file"
        return counter.run(f"{name} {kind}", lambda: function(descriptor, *rest))

    return call


def _replace_sqlite(counter: Counter) -> None:
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, statement: str, *rest: Any) -> sqlite3.Cursor:
            word = statement.split(maxsplit=1)[0].upper()
            if word == "SELECT":
                return super().execute(statement, *rest)
            return counter.run(f"sqlite {word}", lambda: super(Connection, self).execute(statement, *rest))

        def executemany(self, statement: str, *rest: Any) -> sqlite3.Cursor:
            word = statement.split(maxsplit=1)[0].upper()
            return counter.run(f"sqlite {word} many", lambda: super(Connection, self).executemany(statement, *rest))

        def executescript(self, script: str) -> sqlite3.Cursor:
            return counter.run("sqlite script", lambda: super(Connection, self).executescript(script))

    def connect_(*given: Any, **named: Any) -> sqlite3.Connection:
        return connect(*given, **({"factory": Connection} | named))

    sqlite3.connect = connect_  # type: ignore[assignment]


def _replace_botocore(counter: Counter) -> None:
    from botocore.client import BaseClient

    call = BaseClient._make_api_call  # type: ignore[attr-defined]

    def counted(self: Any, operation: str, parameters: Any) -> Any:
        if not operation.startswith(_OPERATIONS):
            return call(self, operation, parameters)
        return counter.run(f"aws {operation}", lambda: call(self, operation, parameters))

    BaseClient._make_api_call = counted  # type: ignore[attr-defined]


def _replace_socket(counter: Counter, port: int) -> None:
    send = socket.socket.sendall

    def sendall(self: socket.socket, *given: Any) -> None:
        if self.family == socket.AF_INET and self.getsockname()[1] == port:
            counter.run("send", lambda: send(self, *given))
        else:
            send(self, *given)

    socket.socket.sendall = sendall  # type: ignore[method-assign]


def _replace_send(counter: Counter, port: int) -> None:
    """Count what pynetdicom sends on the associations that the edge opens."""
    send = socket.socket.send

    def send_(self: socket.socket, *given: Any) -> int:
        if port and self.family == socket.AF_INET and self.getpeername()[1] == port:
            return int(counter.run("send result", lambda: send(self, *given)))
        return send(self, *given)

    socket.socket.send = send_  # type: ignore[method-assign]
