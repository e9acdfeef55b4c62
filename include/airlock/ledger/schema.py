"""The ledger's schema revision: the upgrade of a database to it, and the check of a database for it."""

from __future__ import annotations

import sqlite3
from time import monotonic, sleep
from typing import TYPE_CHECKING

from sqlalchemy import Column, MetaData, String, Table, inspect, select, update

from airlock.ledger.database import BUSY_TIMEOUT_MS, engine_for, parse_url, reading, shown_address, sqlite_file, writing
from airlock.ledger.errors import LedgerError, LedgerLockedError, LedgerSchemaError
from airlock.ledger.large_indexes import build_missing
from airlock.ledger.migrations.copying import BEGUN, PARTS, copy_part, create_copies, find_remaining

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import PoolProxiedConnection

REVISION = "0017"  # the newest in migrations/versions; named here so that opening a ledger need not load Alembic
# The next schema only adds to this one: workers of two neighbouring versions share a ledger while they are replaced.
NEXT = f"{int(REVISION) + 1:04}"
FIRST_WITH_NEIGHBOURS = "0012"  # earlier versions of Airlock work on their own schema only
# Not Alembic's default name: Airflow or other users of Alembic may share the database.
BEFORE_COPYING = "0011"
VERSION_TABLE = "airlock_ledger_version"
LEDGER_URL = "AIRLOCK_LEDGER_URL"  # environment variable: every user of the machine can read command lines
_LOCKED_PAUSE_SECONDS = 0.05
_INSTALL = f"This Airlock works with {REVISION} and {NEXT}: install the Airlock that upgraded the ledger"
_LOCK_SECONDS, _LOCK_TRIES = 5, 60
_version = Table(VERSION_TABLE, MetaData(), Column("version_num", String))


def upgrade(url: str, report: Callable[[str], None] = lambda _: None) -> None:
    """Create a ledger, or upgrade an older one; several processes may do so at the same time.

    The step to schema 0012 copies all arrivals. If it is interrupted, the next upgrade continues it.

    Parameters
    ----------
    url
        See `database.parse_url`. A SQLite file and its folder are created for this user only; a PostgreSQL database
        must exist.
    report
        Gets a sentence about the progress of a step that takes long.

    Raises
    ------
    LedgerError
        If the address is wrong, the database does not answer, or this Airlock does not know the ledger's schema.
    """
    parsed = parse_url(url)
    file = sqlite_file(parsed)
    if file is not None:
        _make_private(file)
    engine = engine_for(parsed)
    try:
        if file is not None:
            _wait_for_write_ahead(engine)
        with reading(engine) as connection:
            if _read_revision(connection) in {REVISION, NEXT}:
                return build_missing(engine, report)
        with writing(engine, "schema") as connection:
            _begin_copying(connection)
        while _copy_next_part(engine, report):
            pass
        _take_steps(engine, report)
        build_missing(engine, report)
    finally:
        engine.dispose()


def _make_private(file: Path) -> None:
    """Create a SQLite file that only this user can read; SQLite gives its -wal, -shm and journal the same mode."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError as error:
        raise LedgerError(
            f"the ledger {file} cannot be created ({error.strerror}): "
            f"name a file in a folder that this user can write to"
        ) from None


def _take_steps(engine: Engine, report: Callable[[str], None]) -> None:
    """Take all steps in one transaction; wait for running tasks, but not so that new ones have to wait meanwhile.

    A step that changes a table waits for the transactions that use it, and all later ones wait behind the step. So it
    gives up after some seconds and tries again.
    """
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            with writing(engine, "schema") as connection:
                if connection.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS * 1_000:.0f}ms'")
                return _migrate(connection, "head")
        except LedgerLockedError:
            if not tries_left:
                raise
            report("tasks use a table that is to be changed: trying again")
    return None


def check(engine: Engine) -> str:
    """Check that this Airlock works on the ledger: its schema is `REVISION` or `NEXT`.

    So the ledger is upgraded first, and then the workers one by one.

    Returns
    -------
    str
        The ledger's schema.

    Raises
    ------
    LedgerSchemaError
        If it is not, or there is no ledger; the text says what to do.
    """
    file = sqlite_file(engine.url)
    command = f"run, with {LEDGER_URL} set to its address: python -m airlock.ledger upgrade"
    if file is not None and not file.exists():  # a connection would create an empty file
        raise LedgerSchemaError(f"there is no ledger at {shown_address(engine)}: {command}")
    with reading(engine) as connection:
        found = _read_revision(connection)
    if found is None:
        raise LedgerSchemaError(f"the database at {shown_address(engine)} holds no ledger yet: {command}")
    if found == BEGUN:
        raise LedgerSchemaError(f"the upgrade of the ledger at {shown_address(engine)} was interrupted: {command}")
    if found in {REVISION, NEXT}:
        return found
    has = f"the ledger at {shown_address(engine)} has schema {found}"
    if found.isdecimal() and found < REVISION:
        raise LedgerSchemaError(f"{has}, this Airlock needs {REVISION}: {command}")
    raise LedgerSchemaError(f"{has}, which this Airlock does not know; nothing was read or written. {_INSTALL}")


def versions_for(revision: str) -> list[str]:
    """Return the schemas of the versions of Airlock that may run on a ledger with this schema."""
    before = f"{int(revision) - 1:04}"
    return sorted({max(FIRST_WITH_NEIGHBOURS, before), revision})


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(_version.c.version_num)).scalar_one_or_none()


def _wait_for_write_ahead(engine: Engine) -> None:
    """Set SQLite's write-ahead log, so that readers do not wait for a writer; the file keeps the mode."""
    deadline = monotonic() + BUSY_TIMEOUT_MS / 1_000
    connection = engine.raw_connection()
    try:
        while not _set_write_ahead(connection, last=monotonic() > deadline):
            sleep(_LOCKED_PAUSE_SECONDS)
    finally:
        connection.close()


def _set_write_ahead(connection: PoolProxiedConnection, *, last: bool) -> bool:
    # SQLite's busy timeout does not cover the change of the mode: it fails at once while another process changes it.
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if last or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True


def _begin_copying(connection: Connection) -> None:
    """Prepare a ledger from before schema 0012 for the step that copies its arrivals; a new ledger has none to copy."""
    found = _read_revision(connection)
    if found is None or found > BEFORE_COPYING:
        return
    _migrate(connection, BEFORE_COPYING)
    if _read_revision(connection) == BEFORE_COPYING:
        create_copies(connection)
        connection.execute(update(_version).values(version_num=BEGUN))


def _copy_next_part(engine: Engine, report: Callable[[str], None]) -> bool:
    """Copy the next part of the arrivals; return False when none is left."""
    with writing(engine, "schema") as connection:
        if _read_revision(connection) != BEGUN:
            return False
        remaining = list(find_remaining(connection))
        if not remaining:
            connection.execute(update(_version).values(version_num=BEFORE_COPYING))
            return False
        copied = copy_part(connection, remaining[0])
        report(f"part {len(PARTS) - len(remaining) + 1} of {len(PARTS)}: {copied:,} arrivals copied")
        return True


def _migrate(connection: Connection, target: str) -> None:
    """Bring the schema to a revision, unless it is beyond it."""
    from alembic import command  # noqa: PLC0415  # only upgrades need it, not every task
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    found = _read_revision(connection)
    if found in {REVISION, NEXT}:
        return
    config = Config()
    config.set_main_option("script_location", "airlock.ledger:migrations")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise LedgerError(f"the ledger has schema {found}, which this Airlock does not know. {_INSTALL}")
    command.upgrade(config, target)
