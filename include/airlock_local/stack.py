"""Starting and stopping the stack: as a whole, and never another program's processes."""

from __future__ import annotations

import fcntl
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airlock_local.components import Preparation, Service
from airlock_local.processes import Records, Running, end_processes, launch
from airlock_local.progress import say
from airlock_local.settings import LOOPBACK, ROOT

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping

    from airlock_local.components import Plan
    from airlock_local.settings import Settings

READY_WITHIN = 180.0  # seconds; ten times what a slow machine needs
_LOOK_EVERY = 0.2


class StackError(RuntimeError):
    """The stack cannot be started; the message says why and what to do."""


class PortInUseError(StackError):
    """Another program listens on a port of the stack."""


@dataclass
class _Start:
    """One part that is starting."""

    part: Service | Preparation
    began: datetime
    running: Running
    command: subprocess.Popen[bytes]

    @property
    def seconds(self) -> float:
        return (datetime.now(UTC) - self.began).total_seconds()

    def is_ready(self) -> bool:
        """Return whether the part answers, or has done its work.

        Raises
        ------
        StackError
            It ended otherwise.
        """
        status = self.command.poll()
        if isinstance(self.part, Preparation):
            return self._has_prepared(self.part, status)
        if status is not None:
            raise StackError(f"{self.part.title} ended while it was starting (exit status {status}). {self.name_log()}")
        port = self.part.port
        # Another program may listen on the port: it gets no request.
        return (port is None or self.running.listens_on(port)) and self.part.probe(self.began)

    def _has_prepared(self, part: Preparation, status: int | None) -> bool:
        if status:
            raise StackError(f"{part.title} could not be made (exit status {status}). {self.name_log()}")
        if status == 0:
            part.marker.write_text(part.state)
        return status == 0

    def name_log(self) -> str:
        return f"See {self.running.log}, which ends with\n{self.running.log_tail()}"


@dataclass
class Stack:
    """The stack of one ``var`` folder.

    Parameters
    ----------
    settings
        Its folder and ports.
    on_ready
        Called with a service's name as soon as it answers.
    """

    settings: Settings
    on_ready: Callable[[str], None] = lambda _: None
    records: Records = field(init=False)

    def __post_init__(self) -> None:
        self.records = Records(self.settings.var / "run")

    def up(self, plan: Plan) -> bool:
        """Start the parts that do not run, or run with other settings or older code.

        Returns
        -------
        bool
            True if a part was started.

        Raises
        ------
        PortInUseError
            A port is in use; nothing was started.
        StackError
            A part ended or did not answer in time; the parts that this call started are stopped again.
        """
        with self._locked():
            missing = self._missing(plan)
            _check_ports(missing)  # before `on_ready`: a stack that cannot start must get no delivery
            for service in plan.services:
                if service not in missing:
                    self.on_ready(service.name)
            if missing:
                self._start(missing, [item for item in plan.preparations if not item.is_done()])
            return bool(missing)

    def down(self) -> list[str]:
        """End the parts of the stack, and return the names of those that ran."""
        with self._locked():
            known = self.records.read()
            alive = [name for name, process in known.items() if process.members()]
            end_processes([known[name] for name in alive])
            for name in known:
                self.records.forget(name)
            return alive

    def status(self) -> dict[str, bool]:
        """Return by name whether each recorded part is alive."""
        return {name: process.is_alive() for name, process in self.records.read().items()}

    def list_dead(self) -> list[str]:
        """Return the names of parts that ended unexpectedly."""
        return [name for name, alive in self.status().items() if not alive]

    def check_own(self, ports: Mapping[str, int]) -> None:
        """Check that no other program listens on the ports of these parts.

        Raises
        ------
        PortInUseError
            One does; it got no request.
        """
        known = self.records.read()
        for name, port in ports.items():
            if not _is_free(port) and not (name in known and known[name].listens_on(port)):
                raise PortInUseError(
                    f"Port {port} of the {name} of the local stack is used by another program. End that program, or "
                    "set the port with which make run was called."
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self.settings.var
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "stack.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Waiting for another make run or make stop in this folder.")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _missing(self, plan: Plan) -> list[Service]:
        known = self.records.read()
        missing, outdated = [], []
        for service in plan.services:
            process = known.get(service.name)
            if process and process.is_alive() and process.fingerprint == service.fingerprint:
                continue
            missing.append(service)
            if process is None:
                continue
            why = (
                "its settings or its code changed"
                if process.is_alive()
                else f"it had ended unexpectedly, see {process.log}"
            )
            say(f"Restarting {service.title}: {why}.")
            outdated.append(process)
        end_processes(outdated)
        return missing

    def _start(self, services: list[Service], preparations: list[Preparation]) -> None:
        pending: list[Service | Preparation] = [*preparations, *services]
        awaited = {item.name for item in preparations}
        starting: list[_Start] = []
        started: list[_Start] = []
        try:
            while pending or starting:
                for part in [part for part in pending if not part.needs & awaited]:
                    started.append(self._launch(part))
                    starting.append(started[-1])
                    pending.remove(part)
                for start in [start for start in starting if self._is_ready(start)]:
                    starting.remove(start)
                    awaited.discard(start.part.name)
                time.sleep(_LOOK_EVERY)
        except BaseException:
            say("Stopping the parts that were started.")
            end_processes([start.running for start in started])
            for start in started:
                self.records.forget(start.part.name)
            raise

    def _launch(self, part: Service | Preparation) -> _Start:
        log = self.settings.var / "log" / f"{part.name}.log"
        kept: dict[str, Any] = {}
        if isinstance(part, Service):
            kept = {"fingerprint": part.fingerprint, "patience": part.patience}
        began = datetime.now(UTC)
        running, command = launch(part.argv, part.environment, ROOT, log, **kept)
        self.records.write(part.name, running)
        say(f"  starting {part.title}")
        return _Start(part, began, running, command)

    def _is_ready(self, start: _Start) -> bool:
        if start.is_ready():
            say(f"  {start.part.title} ready ({start.seconds:.1f} s)")
            if isinstance(start.part, Preparation):
                self.records.forget(start.part.name)
            self.on_ready(start.part.name)
            return True
        if start.seconds > READY_WITHIN:
            late = f"{start.part.title} was not ready within {READY_WITHIN:.0f} s"
            raise StackError(f"{late}. On a busy machine, call it again: it goes on where it was. {start.name_log()}")
        return False


def _check_ports(services: list[Service]) -> None:
    for service in services:
        if service.port is not None and not _is_free(service.port):
            raise PortInUseError(
                f"Port {service.port} of the {service.title} is used by another program. End that program, or choose "
                f"a free port, for example: make run {service.setting}={service.port + 1000}"
            )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
