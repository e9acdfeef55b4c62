"""The connection: which databases, how a transaction begins, and what keeps two writers apart."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from airlock.ledger.errors import LedgerError, translate_errors
from airlock.records import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

BUSY_TIMEOUT_MS = 60_000
CACHE_KIB = 65_536  # SQLite's own 2 MiB make a large delivery's inserts slow: their keys come in no order
_POSTGRES = {"postgres", "postgresql", "postgresql+psycopg2"}
_SQLITE = {"sqlite", "sqlite+pysqlite"}
_SECRETS = ("password", "sslpassword")  # libpq takes these from the query of an address as well


def parse_url(text: str) -> URL:
    """Return a ledger's address with its driver.

    Parameters
    ----------
    text
        ``sqlite:////folder/ledger.db``, or ``postgresql://user@host/database`` (``postgres://`` and
        ``postgresql+psycopg2://`` mean the same).

    Raises
    ------
    LedgerError
        If it is no such address.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise LedgerError(
            "the ledger's address is not a database URL: write sqlite:////folder/ledger.db or postgresql://user@host/name"
        ) from None
    if url.drivername in _POSTGRES:
        return url.set(drivername="postgresql+psycopg2")
    if url.drivername not in _SQLITE:
        raise LedgerError(f"the ledger cannot be kept in {url.drivername!r}: use sqlite:// or postgresql://")
    if url.database in {None, "", ":memory:"}:
        raise LedgerError("a ledger in memory is lost with its process: name a file, as sqlite:////folder/ledger.db")
    return url


def engine_for(url: URL) -> Engine:
    """Return an engine whose errors show no row's content and whose SQLite connections serve several processes."""
    if url.get_backend_name() == "postgresql":
        return create_engine(url, hide_parameters=True, pool_pre_ping=True)
    engine = create_engine(url, hide_parameters=True, poolclass=NullPool)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, record: object) -> None:  # noqa: ARG001  # SQLAlchemy's signature
    connection.isolation_level = None  # the driver shall not begin transactions: _begin_sqlite does
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the write lock before it reads. One that took it later would fail at once, whatever the timeout,
    # if another had written since.
    writing = connection.get_execution_options().get("airlock_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def writing(engine: Engine, *scopes: str) -> Iterator[Connection]:
    """Open a transaction that writes, alone in its scopes.

    PostgreSQL keeps writers of one scope apart by an advisory lock, SQLite all writers by its write lock; so a method
    may look first and write then.

    Parameters
    ----------
    engine
        The ledger's.
    scopes
        What is written, as ``arrivals of nightly``.
    """
    with (
        translate_errors(shown_address(engine)),
        engine.connect().execution_options(airlock_writing=True) as connection,
        connection.begin(),
    ):
        if connection.dialect.name == "postgresql":
            for key in sorted(int(digest("airlock ledger", scope, length=15), 16) for scope in scopes):
                connection.execute(select(func.pg_advisory_xact_lock(key)))
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads, in temporary tables of its own perhaps."""
    with translate_errors(shown_address(engine)), engine.connect() as connection, connection.begin():
        yield connection


def shown_address(engine: Engine) -> str:
    """Return the ledger's address for a message, without its password."""
    return engine.url.difference_update_query(_SECRETS).render_as_string(hide_password=True)


def has_password(url: URL) -> bool:
    """Return whether an address holds a password."""
    return url.password is not None or any(name in url.query for name in _SECRETS)


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite ledger, None for PostgreSQL."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


class Store:
    """What every part of the ledger works with: its engine, and the two kinds of transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with reading(self._engine) as connection:
            yield connection

    @contextmanager
    def _writing(self, *scopes: str) -> Iterator[Connection]:
        with writing(self._engine, *scopes) as connection:
            yield connection
