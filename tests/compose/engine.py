"""podman and docker-compose, as the proof calls them; and the clock of the health checks where systemd is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airlock_local.settings import ROOT
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.compose.settings import Settings

PROJECT = "airlock-proof"
FILES = ("docker-compose.yaml", "docker-compose.fab.yaml", "tests/compose/proof.yaml")
STAGES = {"airlock": "airlock", "airlock-fab": "airlock-fab", "local-aws": "airlock-local-aws"}
_EVERY = 2.0  # seconds between two looks at containers that are not healthy yet
_LONGEST = 1_800  # seconds for a command: the build installs some 200 packages, three times


def call(*command: str, told: str | None = None, environment: dict[str, str] | None = None, check: bool = True) -> str:
    """Run a command and return what it printed.

    Raises
    ------
    RuntimeError
        If it fails and ``check`` is set, with the end of its output.
    """
    done = subprocess.run(
        command,
        check=False,
        input=told,
        stdin=None if told is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | (environment or {}),
        timeout=_LONGEST,
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} failed: {(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def build_images(settings: Settings) -> None:
    """Build the three images of the Dockerfile on the base."""
    for stage, image in STAGES.items():
        base = f"--build-arg=BASE={settings.images['BASE']}"
        call("podman", "build", "--quiet", f"--target={stage}", base, f"--tag={image}", *settings.build_options, ".")


class Stack:
    """The containers of the proof.

    Parameters
    ----------
    settings
        The proof's.
    socket
        Where podman serves Docker's API, which docker-compose speaks.
    """

    def __init__(self, settings: Settings, socket: Path) -> None:
        self._settings = settings
        self._environment = {"DOCKER_HOST": f"unix://{socket}"}

    def compose(
        self, *arguments: str, variables: dict[str, str] | None = None, told: str | None = None, check: bool = True
    ) -> str:
        """Call docker-compose with the proof's files."""
        files = [part for file in FILES for part in ("-f", file)]
        command = ["docker-compose", "-p", PROJECT, "--env-file", str(self._settings.env_file), *files]
        return call(*command, *arguments, told=told, environment=self._environment | (variables or {}), check=check)

    def up(self, *services: str, variables: dict[str, str] | None = None) -> None:
        """Start services, or all, and wait until what they need is healthy."""
        self.compose("up", "-d", "--no-build", "--pull=never", "--quiet-pull", *services, variables=variables)

    def down(self) -> None:
        """Remove the containers and their volumes."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout=20")

    def execute(self, service: str, *command: str, told: str = "") -> str:
        """Run a command in a running container, without a terminal."""
        return call("podman", "exec", "-i", self.container(service), *command, told=told)

    def container(self, service: str) -> str:
        """Return the name of a service's container."""
        return f"{PROJECT}-{service}-1"

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what podman knows of a service's container."""
        return dict(json.loads(call("podman", "inspect", self.container(service)))[0])

    def services(self) -> list[str]:
        """Return the services that docker-compose starts, of the active profile."""
        return sorted(self.compose("config", "--services").split())

    def kill(self, service: str) -> None:
        """End a service's processes without a warning."""
        call("podman", "kill", "--signal=KILL", self.container(service))
        until(f"{service} is dead", lambda: not self.inspect(service)["State"]["Running"], 30)

    def start(self, service: str) -> None:
        """Start a container again."""
        call("podman", "start", self.container(service))

    def service_of(self, hostname: str) -> str:
        """Return the worker whose container has this host name."""
        workers = {self.inspect(name)["Config"]["Hostname"]: name for name in ("worker-1", "worker-2")}
        return workers[hostname]

    def log(self, service: str) -> str:
        """Return the log of a service's container."""
        command = ["podman", "logs", self.container(service)]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.stdout


@contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """Serve Docker's API from podman on a socket in a folder, and yield the socket."""
    socket = folder / "podman.sock"
    socket.unlink(missing_ok=True)
    with (folder / "podman.log").open("wb") as log:
        command = ["podman", "system", "service", "--time=0", f"unix://{socket}"]
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            until("podman serves Docker's API", lambda: server.poll() is not None or socket.exists(), 30)
            assert server.poll() is None, (folder / "podman.log").read_text()
            yield socket
        finally:
            server.terminate()
            server.wait(30)


class HealthClock:
    """Runs the containers' health checks, which podman leaves to timers of systemd.

    With systemd it is not needed, and does no harm. A container that is healthy is asked every 30 seconds.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._asked: dict[str, float] = {}

    def __enter__(self) -> HealthClock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY):
            for name, status in list_statuses().items():
                if "(healthy)" not in status or time.monotonic() - self._asked.get(name, 0.0) > 30:
                    self._asked[name] = time.monotonic()
                    call("podman", "healthcheck", "run", name, check=False)


def list_statuses() -> dict[str, str]:
    """Return the status of each running container that has a health check: ``Up 3 minutes (healthy)``."""
    listed = call(
        *("podman", "ps", "--filter", f"label=com.docker.compose.project={PROJECT}"),
        *("--format", "{{.Names}}|{{.Status}}"),
        check=False,
    )
    rows = (line.partition("|") for line in listed.splitlines())
    return {name: status for name, _, status in rows if "(" in status}


def missing_programs() -> list[str]:
    """Return the programs that the proof needs and this machine lacks."""
    return [name for name in ("podman", "docker-compose") if shutil.which(name) is None]
