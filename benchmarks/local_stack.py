"""The local stack of a checkout, in a folder of its own: the checkout's code, on ports and with data of its own."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from airlock_local.settings import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

_CODE = ("dags", "include", "plugins")
_SHIPPED_S3 = f"http://{LOOPBACK}:4566/"  # in the pipeline files that ship
_STALL_MINUTES = 60


@dataclass(frozen=True)
class LocalStack:
    """A stack; its processes work on a copy of the code, so that the checkout gets no compiled files."""

    checkout: Path
    folder: Path
    ports: tuple[int, int, int]  # of Airflow's API, S3, and the health services

    @property
    def var(self) -> Path:
        """The folder of the stack's databases, logs and reports."""
        return self.folder / "var"

    @property
    def s3_url(self) -> str:
        """The address of its S3."""
        return f"http://{LOOPBACK}:{self.ports[1]}"

    def begin(self, command: str, **more: str) -> subprocess.Popen[str]:
        """Start what ``make <command>`` runs, with further variables; its output goes to a file in the folder."""
        api, s3, health = map(str, self.ports)
        own = {"AIRLOCK_API_PORT": api, "AIRLOCK_S3_PORT": s3, "AIRLOCK_HEALTH_PORT": health}
        own |= {"AIRLOCK_VAR": str(self.var), "AIRLOCK_PIPELINES": str(self.folder / "pipelines")}
        own |= {"PYTHONPATH": str(self.folder / "include"), "AIRLOCK_STALL_MINUTES": str(_STALL_MINUTES)}
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        argv = [str(self.checkout / ".venv/bin/python"), "-m", "airlock_local", command]
        with self.output.open("a", encoding="utf-8") as output:
            return subprocess.Popen(  # noqa: S603  # our own code
                argv, cwd=self.folder, env=kept | own | more, stdout=output, stderr=output, text=True
            )

    def call(self, command: str, **more: str) -> None:
        """Do what ``make <command>`` does.

        Raises
        ------
        RuntimeError
            If it fails.
        """
        status = self.begin(command, **more).wait()
        if status:
            raise RuntimeError(
                f"{command} of {self.checkout.name} failed ({status}):\n{self.output.read_text()[-3000:]}"
            )

    @property
    def output(self) -> Path:
        """The file of all commands' output."""
        return self.folder / "output.txt"

    def read_airflow(self, query: str) -> list[tuple[str, ...]]:
        """Return the rows of a query to Airflow's metadata database."""
        with closing(sqlite3.connect(f"file:{self.var}/airflow/airflow.db?mode=ro", uri=True, timeout=30)) as database:
            return list(database.execute(query))


@contextmanager
def local_stack(checkout: Path) -> Iterator[LocalStack]:
    """Yield a checkout's stack, of which nothing runs yet; at the end nothing runs and nothing is left."""
    with TemporaryDirectory(prefix="airlock-stack-") as name:
        folder = Path(name)
        for part in _CODE:
            shutil.copytree(checkout / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        stack = LocalStack(checkout, folder, _find_free_ports())
        pipelines = shutil.copytree(folder / "include/pipelines", folder / "pipelines")
        for path in pipelines.glob("*.yaml"):
            path.write_text(path.read_text().replace(_SHIPPED_S3, f"{stack.s3_url}/"))
        try:
            yield stack
        finally:
            stack.begin("stop").wait()


def _find_free_ports() -> tuple[int, int, int]:
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(3)]
    api, s3, health = (item.getsockname()[1] for item in sockets)
    for item in sockets:
        item.close()
    return api, s3, health
