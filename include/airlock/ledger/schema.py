"""The ledger's schema revision: bringing a database to it, and refusing one that is not there."""

from __future__ import annotations

import sqlite3
from time import monotonic, sleep
from typing import TYPE_CHECKING

from sqlalchemy import Column, MetaData, String, Table, inspect, select

from airlock.ledger.database import BUSY_TIMEOUT_MS, engine_for, parse_url, reading, shown_address, sqlite_file, writing
from airlock.ledger.errors import LedgerError, LedgerSchemaError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import PoolProxiedConnection

REVISION = "0011"  # the newest in migrations/versions; kept here so that opening a ledger need not load Alembic
# A name of its own: the database may be shared with others that use Alembic, as Airflow does.
VERSION_TABLE = "airlock_ledger_version"
LEDGER_URL = "AIRLOCK_LEDGER_URL"  # of the environment, since a command line is open to every user of the machine
_LOCKED_PAUSE_SECONDS = 0.05
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", String))


def upgrade(url: str) -> None:
    """Create a ledger, or bring an older one up to date; safe when several processes do it at once.

    Parameters
    ----------
    url
        See `database.parse_url`. A SQLite file and its folder are made for this user alone; a PostgreSQL database must
        exist.

    Raises
    ------
    LedgerError
        If the address is wrong, the database is out of reach, or a newer Airlock has written it.
    """
    parsed = parse_url(url)
    file = sqlite_file(parsed)
    if file is not None:
        _make_private(file)
    engine = engine_for(parsed)
    try:
        if file is not None:
            _wait_for_write_ahead(engine)
        with writing(engine, "schema") as connection:
            found = _read_revision(connection)
            if found != REVISION:
                _migrate(connection, found)
    finally:
        engine.dispose()


def _make_private(file: Path) -> None:
    """Make a SQLite file that only this user can read; SQLite gives its -wal, -shm and journal the same mode."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError as error:
        raise LedgerError(
            f"the ledger {file} cannot be made ({error.strerror}): name a file in a folder that this user can write to"
        ) from None


def check(engine: Engine) -> None:
    """Refuse a ledger whose schema is not this version's.

    Raises
    ------
    LedgerSchemaError
        With the command that upgrades it.
    """
    file = sqlite_file(engine.url)
    command = f"run, with {LEDGER_URL} set to its address: python -m airlock.ledger upgrade"
    if file is not None and not file.exists():  # connecting would make an empty one
        raise LedgerSchemaError(f"there is no ledger at {shown_address(engine)}: {command}")
    with reading(engine) as connection:
        found = _read_revision(connection)
    if found is None:
        raise LedgerSchemaError(f"the database at {shown_address(engine)} holds no ledger yet: {command}")
    if found != REVISION:
        raise LedgerSchemaError(
            f"the ledger at {shown_address(engine)} has schema {found}, this Airlock needs {REVISION}: {command}"
        )


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(_version.c.version_num)).scalar_one_or_none()


def _wait_for_write_ahead(engine: Engine) -> None:
    """Let readers and a writer of a SQLite file work at once; the file keeps the mode."""
    deadline = monotonic() + BUSY_TIMEOUT_MS / 1_000
    connection = engine.raw_connection()
    try:
        while not _set_write_ahead(connection, last=monotonic() > deadline):
            sleep(_LOCKED_PAUSE_SECONDS)
    finally:
        connection.close()


def _set_write_ahead(connection: PoolProxiedConnection, *, last: bool) -> bool:
    # SQLite's own timeout does not cover every change of the mode: it fails at once while another one changes it.
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if last or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _migrate(connection: Connection, found: str | None) -> None:
    from alembic import command  # noqa: PLC0415  # only who upgrades needs it, not every task
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "airlock.ledger:migrations")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise LedgerError(f"the ledger has schema {found}, which is newer than this Airlock: install the newer Airlock")
    command.upgrade(config, "head")
