"""The commands of docs/backup.md and docs/upgrade.md, as they stand there, on a real PostgreSQL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.main import get_command

from airlock.ledger import Ledger
from airlock.ledger.database import engine_for, parse_url, writing
from airlock.ledger.schema import NEXT, REVISION, VERSION_TABLE
from airlock_cli.app import app
from tests.markdown import ROOT
from tests.servers.postgres import Postgres, found_programs, postgres_server, postgres_url, shipped_programs
from tests.unit.airlock.ledger.samples import NIGHTLY, arrivals, begin
from tests.unit.airlock.ledger.test_schema import execute
from tests.unit.airlock.ledger.test_transfer import fill, rows

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["postgres_server", "postgres_url"]
pytestmark = pytest.mark.slow

PAGES = ("docs/backup.md", "docs/upgrade.md")
# By their beginnings: what the tests below carry out, and what needs AWS or Airflow.
REHEARSED = ("pg_dump", "createdb", "pg_restore", "sqlite3", "airlock ledger", "AIRLOCK_LEDGER_URL=")
SCHEDULER = "tests/e2e/test_recovery.py"  # carries these commands out on Airflow's scheduler
BY_FORM = {
    "aws s3 sync s3://WORKSPACE_BUCKET/runs/ s3://BACKUP_BUCKET/runs/": "needs AWS",
    "airflow dags pause nightly": SCHEDULER,
    "airflow dags unpause nightly": SCHEDULER,
    "airlock ledger rebuild --onto-backup": SCHEDULER,
    "airlock sweep nightly --dry-run": SCHEDULER,
    "airlock reconcile nightly": SCHEDULER,
}


def documented(beginning: str = "") -> list[str]:
    """Return the commands of the pages, in order, each once."""
    blocks = (block for page in PAGES for block in re.findall(r"```\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    lines = (line.strip() for block in blocks for line in block.splitlines())
    return [line for line in dict.fromkeys(lines) if line and line.startswith(beginning)]


def one(beginning: str) -> str:
    (command,) = documented(beginning)
    return command


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., str]:
    """Runs a command as a person would: PostgreSQL's programs and airlock are on the path."""
    programs = found_programs() or shipped_programs()
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(command: str, **variables: str) -> str:
        environment = {**os.environ, "PATH": path, **variables}
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout + done.stderr

    return run


def plain(url: str) -> str:
    """Return the address as PostgreSQL's own programs take it."""
    return url.replace("+psycopg2", "")


def work(url: str, run: str, *names: str) -> None:
    with Ledger.open(url) as ledger:
        begin(ledger, run)
        ledger.claim(NIGHTLY, run, arrivals(*names))


def test_every_command_is_rehearsed_or_checked_by_form() -> None:
    rest = [line for line in documented() if line not in BY_FORM]
    assert [line for line in rest if not line.startswith(REHEARSED)] == []
    assert set(BY_FORM) <= set(documented())
    rehearsal = (ROOT / SCHEDULER).read_text(encoding="utf-8")
    assert [line for line, where in BY_FORM.items() if where == SCHEDULER and line not in rehearsal] == []


@pytest.mark.parametrize("command", [line for line in BY_FORM if line.startswith("airlock ")])
def test_airlock_knows_the_options(command: str) -> None:
    words = command.split()[1:]
    found = get_command(app)
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    known = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_a_ledger_is_dumped_while_a_task_writes_and_restored_as_it_was(
    postgres_server: Postgres, postgres_url: str, shell: Callable[..., str]
) -> None:
    fill(postgres_url)
    before = rows(postgres_url)
    engine = engine_for(parse_url(postgres_url))
    with writing(engine, "arrivals of nightly"):
        shell(one("pg_dump"), LEDGER=plain(postgres_url))
    engine.dispose()
    work(postgres_url, "later", "9")  # lost with the server

    server, restored = postgres_server.url("postgres"), postgres_server.url("airlock_restored")
    shell(one("createdb"), SERVER=plain(server))
    try:
        shell(one("pg_restore"), RESTORED=plain(restored))
        for command in ("airlock ledger upgrade", "airlock ledger check"):
            assert command in documented("airlock ledger")
            assert "may run on it" in shell(command, AIRLOCK_LEDGER_URL=restored)
        assert rows(restored) == before
        work(restored, "next", "9")  # numbers and indexes are in order
    finally:
        postgres_server.drop_database("airlock_restored")


def test_a_sqlite_ledger_is_backed_up_while_a_task_writes(tmp_path: Path, shell: Callable[..., str]) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    fill(url)
    command = one("sqlite3")
    for place in ("/var/airlock/ledger.db", "/backup/ledger.db"):
        assert place in command
    command = command.replace("/var/airlock/ledger.db", f"{tmp_path}/ledger.db").replace("/backup/", f"{tmp_path}/b_")
    engine = engine_for(parse_url(url))
    with writing(engine, "jobs"):
        shell(command)
    engine.dispose()
    copy = f"sqlite:///{tmp_path}/b_ledger.db"
    assert rows(copy) == rows(url)
    work(copy, "next", "9")


def test_a_ledger_moves_from_sqlite_to_postgresql(tmp_path: Path, postgres_url: str, shell: Callable[..., str]) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    fill(url)
    command = one("AIRLOCK_LEDGER_URL=")
    for place, real in {
        "sqlite:////var/airlock/ledger.db": url,
        "postgresql://airlock@db.example.org/airlock": f"'{plain(postgres_url)}'",
    }.items():
        assert place in command
        command = command.replace(place, real)
    assert "rows are copied" in shell(command)
    assert rows(postgres_url) == rows(url)
    work(postgres_url, "next", "9")


def test_an_older_image_works_on_after_an_upgrade_and_changes_nothing(
    postgres_url: str, shell: Callable[..., str]
) -> None:
    """The way back of docs/upgrade.md: to the ledger this version is the older one."""
    fill(postgres_url)
    execute(postgres_url, "ALTER TABLE arrivals ADD COLUMN later TEXT")
    execute(postgres_url, f"UPDATE {VERSION_TABLE} SET version_num = '{NEXT}'")
    assert f"This one has schema {REVISION}" in shell("airlock ledger upgrade", AIRLOCK_LEDGER_URL=postgres_url)
    assert f"The ledger is at schema {NEXT}" in shell("airlock ledger check", AIRLOCK_LEDGER_URL=postgres_url)
    work(postgres_url, "next", "9")
