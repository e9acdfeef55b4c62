"""What ``airlock doctor`` asks of the ledger's database: its schema, encryption, clock, and what this role may do.

Nothing is changed, and a database that does not answer costs seconds.
"""

from __future__ import annotations

import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from airlock.ledger import clock
from airlock.ledger.columns import metadata
from airlock.ledger.database import (
    engine_for,
    find_ssl_mode,
    is_on_this_machine,
    parse_url,
    reading,
    sqlite_file,
)
from airlock.ledger.decision_tables import decisions
from airlock.ledger.rebuilt import need_no_rebuild
from airlock.ledger.schema import check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from sqlalchemy import Connection, Engine

_VERIFIED = frozenset({"verify-ca", "verify-full"})
# The privileges of the role that is connected; a table that it may not even see counts as missing all.
_TABLES = text(
    "SELECT name, word FROM unnest(CAST(:names AS text[])) AS tables (name),"
    " unnest(CAST(:words AS text[])) AS privileges (word)"
    " WHERE to_regclass(quote_ident(name)) IS NULL OR NOT has_table_privilege(to_regclass(quote_ident(name)), word)"
    " ORDER BY name, word"
)
_TEMPORARY = text("SELECT has_database_privilege(current_database(), 'TEMPORARY')")
_SUPERUSER = text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
_ENCRYPTED = text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
_WORDS = ("SELECT", "INSERT", "UPDATE", "DELETE")
_REWRITES = ("UPDATE", "DELETE", "TRUNCATE")


@dataclass(frozen=True)
class Address:
    """Where a ledger is.

    Parameters
    ----------
    file
        The file of a SQLite ledger; None for PostgreSQL.
    is_on_this_machine
        Whether no network is between this process and the database.
    is_verified
        Whether the address demands that the server proves who it is.
    """

    file: Path | None
    is_on_this_machine: bool
    is_verified: bool


def read_address(url: str) -> Address:
    """Return where a ledger is.

    Raises
    ------
    LedgerError
        If it is not the address of a ledger.
    """
    parsed = parse_url(url)
    return Address(sqlite_file(parsed), is_on_this_machine(parsed), find_ssl_mode(parsed) in _VERIFIED)


@contextmanager
def _connect(url: str) -> Iterator[tuple[Engine, Connection]]:
    engine = engine_for(parse_url(url), connections=1)
    try:
        with reading(engine) as connection:
            yield engine, connection
    finally:
        engine.dispose()


def read_time(url: str) -> datetime:
    """Return the database's time, and so prove that it answers.

    Raises
    ------
    LedgerError
        If the address is wrong or the database does not answer; so do the other functions here.
    """
    with _connect(url) as (_, connection):
        return clock.database_time(connection)


def read_schema(url: str) -> str:
    """Return the ledger's schema.

    Raises
    ------
    LedgerSchemaError
        If this Airlock does not work on it, there is no ledger, or its rebuild is unfinished.
    """
    engine = engine_for(parse_url(url), connections=1)
    try:
        found = check(engine)
        with reading(engine) as connection:
            need_no_rebuild(connection)
    finally:
        engine.dispose()
    return found


def is_encrypted(url: str) -> bool:
    """Return whether the connection to PostgreSQL is encrypted."""
    with _connect(url) as (_, connection):
        return bool(connection.execute(_ENCRYPTED).scalar_one_or_none())


@dataclass(frozen=True)
class Privileges:
    """What the role that is connected to PostgreSQL may do.

    Parameters
    ----------
    missing
        What it lacks to work, as ``INSERT on arrivals``.
    is_superuser
        Whether nothing is refused to it.
    can_rewrite_decisions
        Whether it could change or delete the decision log.
    """

    missing: tuple[str, ...]
    is_superuser: bool
    can_rewrite_decisions: bool


def read_privileges(url: str) -> Privileges:
    """Return the privileges of the role on PostgreSQL."""
    with _connect(url) as (_, connection):
        names = sorted(metadata.tables)
        words = list(_WORDS)
        lacking = [
            f"{word} on {name}"
            for name, word in connection.execute(_TABLES, {"names": names, "words": words})
            if name != decisions.name or word in {"SELECT", "INSERT"}
        ]
        if not connection.execute(_TEMPORARY).scalar_one():
            lacking.append("TEMPORARY on the database")
        asked = {"names": [decisions.name], "words": list(_REWRITES)}
        refused = list(connection.execute(_TABLES, asked))
        is_superuser = bool(connection.execute(_SUPERUSER).scalar_one())
        return Privileges(tuple(lacking), is_superuser, len(refused) < len(_REWRITES))


def can_others_read(file: Path) -> bool:
    """Return whether other users of the machine can read a SQLite ledger."""
    return bool(file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
