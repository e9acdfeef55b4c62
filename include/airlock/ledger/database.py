"""The connection to the ledger's database: its address, its transactions, and the locks between writers."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from airlock.ledger import clock
from airlock.ledger.comparison_tables import journal_entries
from airlock.ledger.errors import LedgerError, translate_errors
from airlock.ledger.frames import insert_for
from airlock.ledger.journal import Entry, name_entry
from airlock.records import digest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from sqlalchemy import URL

    from airlock.ledger.journal import Journal

BUSY_TIMEOUT_MS = 60_000
CACHE_KIB = 65_536  # SQLite's default of 2 MiB makes a large delivery's inserts slow: their keys have no order
_NOT_ENCODED = (
    "the ledger's address cannot be read: write @, :, / and % of its password as %40, %3A, %2F and %25, and the port "
    "as a number"
)
_POSTGRES = {"postgres", "postgresql", "postgresql+psycopg2"}
_SQLITE = {"sqlite", "sqlite+pysqlite"}
# In the order of the array: a thousand locks, each by a statement of its own, would take longer than most transactions.
_LOCK = text(
    "SELECT CASE WHEN shared THEN pg_advisory_xact_lock_shared(key) ELSE pg_advisory_xact_lock(key) END"
    " FROM unnest(CAST(:keys AS bigint[]), CAST(:shared AS boolean[])) AS locked (key, shared)"
)
_LIMIT = text(
    "SELECT set_config('statement_timeout', :milliseconds, true), set_config('transaction_read_only', :read_only, true)"
)
_STEPS = 20_000  # of SQLite's virtual machine between two looks at the clock: some milliseconds
_WAIT_SECONDS = 2  # for a connection of a limited pool
_STATEMENTS = 5  # whose time a limited transaction may take on SQLite, which knows no limit for one
_LOCAL_HOSTS = frozenset({"", "localhost", "127.0.0.1", "::1"})
_SECRETS = ("password", "sslpassword")  # libpq accepts these in the query of an address too


@dataclass(frozen=True)
class PartScope:
    """A part of a lock scope, for example the gates of one data store.

    Its writers wait for those of the same part, and for those that lock the whole, as versions before this class do.
    """

    whole: str
    part: str

    def __str__(self) -> str:
        """Return the name of the part."""
        return f"{self.whole} of {self.part}"


Scope = str | PartScope


def _order_locks(scopes: Iterable[Scope]) -> dict[int, bool]:
    """Return the keys of the locks in the order in which every writer takes them, each with whether it is shared."""
    wholes = {scope.whole: True for scope in scopes if isinstance(scope, PartScope)}
    named = wholes | {str(scope): False for scope in scopes}
    return dict(sorted((int(digest("airlock ledger", name, length=15), 16), shared) for name, shared in named.items()))


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
        If it is not the address of a SQLite file or a PostgreSQL database.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise LedgerError(
            "the ledger's address is not a database URL: write sqlite:////folder/ledger.db or postgresql://user@host/name"
        ) from None
    except ValueError:  # its text would quote the port, which is a part of the password if that has an @
        raise LedgerError(_NOT_ENCODED) from None
    if url.drivername in _POSTGRES:
        if "@" in f"{url.host}{url.database}":
            raise LedgerError(_NOT_ENCODED)
        return url.set(drivername="postgresql+psycopg2")
    if url.drivername not in _SQLITE:
        raise LedgerError(f"the ledger cannot be kept in {url.drivername!r}: use sqlite:// or postgresql://")
    if url.database in {None, "", ":memory:"}:
        raise LedgerError("a ledger in memory is lost with its process: name a file, as sqlite:////folder/ledger.db")
    return url


def is_on_this_machine(url: URL) -> bool:
    """Return whether no network is between this process and the database."""
    host = str(url.host or url.query.get("host") or os.environ.get("PGHOST", ""))
    return sqlite_file(url) is not None or host in _LOCAL_HOSTS or host.startswith("/")


def find_ssl_mode(url: URL) -> str:
    """Return the ``sslmode`` of the address or of PGSSLMODE (PostgreSQL's documentation of libpq, "SSL Support").

    Without one, "" on this machine; across a network the server must prove who it is.
    """
    given = str(url.query.get("sslmode") or os.environ.get("PGSSLMODE", ""))
    return given if given or is_on_this_machine(url) else "verify-full"


def engine_for(url: URL, connections: int | None = None) -> Engine:
    """Return an engine whose errors hide the rows' content and whose SQLite connections can serve several processes.

    Parameters
    ----------
    url
        Of `parse_url`.
    connections
        The most connections to PostgreSQL at the same time; the driver's default without it.
    """
    if url.get_backend_name() == "postgresql":
        if mode := find_ssl_mode(url):
            url = url.update_query_dict({"sslmode": mode})
        pool: dict[str, Any] = {"pool_size": connections, "max_overflow": 0, "pool_timeout": _WAIT_SECONDS}
        pool |= {"connect_args": {"connect_timeout": _WAIT_SECONDS}}
        options = {} if connections is None else pool
        return create_engine(url, hide_parameters=True, pool_pre_ping=True, **options)
    engine = create_engine(url, hide_parameters=True, poolclass=NullPool)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, record: object) -> None:  # noqa: ARG001  # SQLAlchemy's signature
    connection.isolation_level = None  # _begin_sqlite begins transactions, not the driver
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the write lock before it reads. If it took the lock later and another one had written since, SQLite
    # would refuse it at once, whatever the timeout.
    writing = connection.get_execution_options().get("airlock_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def writing(engine: Engine, *scopes: Scope) -> Iterator[Connection]:
    """Open a transaction that writes; no other writer of its scopes runs at the same time.

    On PostgreSQL an advisory lock separates the writers of a scope, on SQLite the write lock separates all writers. So
    a method may read first and then write.

    Parameters
    ----------
    engine
        The ledger's engine.
    scopes
        Names of what is written, for example ``arrivals of nightly``, or parts of it.
    """
    with (
        translate_errors(shown_address(engine)),
        engine.connect().execution_options(airlock_writing=True) as connection,
        connection.begin(),
    ):
        if connection.dialect.name == "postgresql":
            locks = _order_locks(scopes)
            connection.execute(_LOCK, {"keys": list(locks), "shared": list(locks.values())})
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads; it may write to temporary tables of its own."""
    with translate_errors(shown_address(engine)), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def limited(engine: Engine, seconds: float, *, read_only: bool = True) -> Iterator[Connection]:
    """Open a transaction that reads for a person who waits.

    Parameters
    ----------
    engine
        The ledger's engine.
    seconds
        The longest time of a statement; on SQLite the whole transaction may take as long as five statements.
    read_only
        Whether the database refuses every change. A query that stages values needs temporary tables, which PostgreSQL
        refuses to a transaction that only reads.

    Raises
    ------
    LedgerSlowError
        If a statement takes longer, or all connections are in use.
    """
    with reading(engine) as connection:
        if connection.dialect.name == "postgresql":
            wanted = {"milliseconds": f"{seconds * 1_000:.0f}", "read_only": "on" if read_only else "off"}
            connection.execute(_LIMIT, wanted)
            yield connection
            return
        with _limit_sqlite(connection, seconds * _STATEMENTS, read_only=read_only):
            yield connection


@contextmanager
def _limit_sqlite(connection: Connection, seconds: float, *, read_only: bool) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    until = monotonic() + seconds
    driver.set_progress_handler(lambda: monotonic() > until, _STEPS)
    try:
        if read_only:
            driver.execute("PRAGMA query_only = ON")
        yield
    finally:  # another user of the connection may write
        driver.set_progress_handler(None, 0)
        driver.execute("PRAGMA query_only = OFF")


def shown_address(engine: Engine) -> str:
    """Return the ledger's address without its passwords, for messages."""
    return engine.url.difference_update_query(_SECRETS).render_as_string(hide_password=True)


def has_password(url: URL) -> bool:
    """Return whether an address holds a password."""
    return url.password is not None or any(name in url.query for name in _SECRETS)


def sqlite_file(url: URL) -> Path | None:
    """Return the path of a SQLite ledger, None for PostgreSQL."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def note_entry(connection: Connection, name: str) -> bool:
    """Add the name of the entry whose change the transaction makes, and return whether it is new.

    By these names a restored backup tells which entries it lacks.
    """
    added = insert_for(connection, journal_entries).values(name=name).on_conflict_do_nothing(index_elements=["name"])
    return bool(connection.execute(added).rowcount)


class Store:
    """The base of the ledger's parts: its engine, and its reading and writing transactions.

    Parameters
    ----------
    engine
        The ledger's engine.
    connection, scopes
        The transaction in which all methods work, and what it has locked; without one each method has its own. Without
        scopes it need not lock anything.
    journal
        What keeps the calls that change the ledger; they are not kept without one.
    entry
        The journal's entry of the transaction.
    """

    def __init__(
        self,
        engine: Engine,
        connection: Connection | None = None,
        scopes: Collection[Scope] | None = (),
        journal: Journal | None = None,
        entry: Entry | None = None,
    ) -> None:
        self._engine = engine
        self._connection = connection
        self._scopes = None if scopes is None else frozenset(scopes)
        self._journal = journal
        self._entry = entry

    def journaled_in(self, journal: Journal) -> Self:
        """Return the same ledger, whose changes are also kept in a journal."""
        return type(self)(self._engine, journal=journal)

    @contextmanager
    def at_once(self, *scopes: Scope, covered: Collection[str] = (), keep_first: bool = False) -> Iterator[Self]:
        """Open one transaction that writes, and yield the ledger whose methods all work in it.

        Parameters
        ----------
        scopes
            What to lock; see `writing`.
        covered
            The scopes of called methods that these locks make needless, because they are finer.
        keep_first
            Whether the journal keeps the calls before they are committed, under the locks: what it cannot keep does
            not take effect.
        """
        entry = None if self._journal is None else Entry()
        try:
            with writing(self._engine, *scopes) as connection:
                yield type(self)(self._engine, connection, {*scopes, *covered}, self._journal, entry)
                if entry is not None:
                    entry.at = clock.database_time(connection)
                    if entry.calls:
                        note_entry(connection, entry.name)
                    if keep_first:
                        self._keep(entry)
        except Exception as error:
            self._withdraw(entry, error)
            raise
        if entry is not None and not keep_first:
            self._keep(entry)

    def _withdraw(self, entry: Entry | None, error: Exception) -> None:
        """Note that an entry that was kept first has not been committed."""
        if self._journal is None or entry is None or not entry.kept_as:
            return
        try:
            self._journal.withdraw(entry)
        except OSError as other:
            error.add_note(f"The journal may keep the entry, and a rebuild would repeat it: {other}")

    @contextmanager
    def alone(self) -> Iterator[Self]:
        """Open one transaction in which all methods work without locks, while nobody else uses the ledger."""
        with writing(self._engine) as connection:
            yield type(self)(self._engine, connection, None)

    def begin_entry(self) -> Entry | None:
        """Return the journal's entry for a call: that of the transaction, or a new one; None without a journal."""
        return Entry() if self._journal is not None and self._entry is None else self._entry

    def end_entry(self, entry: Entry) -> None:
        """Have the journal keep the entry of a call with a transaction of its own, which is committed."""
        if entry is not self._entry:
            self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        try:
            if self._journal is not None and entry.calls:
                self._journal.write(entry)
        finally:
            entry.close()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if self._connection is not None:
            yield self._connection
            return
        with reading(self._engine) as connection:
            yield connection

    @contextmanager
    def _writing(self, *scopes: Scope) -> Iterator[Connection]:
        if self._connection is None:
            with writing(self._engine, *scopes) as connection:
                yield connection
                ended = clock.end_call(connection)
                if ended is not None:
                    note_entry(connection, name_entry(*ended))
            return
        unlocked = {str(scope) for scope in scopes if not self._has_locked(scope)}
        if unlocked:  # to lock them now, out of order, could end in a deadlock
            raise ValueError(f"the transaction has not locked {', '.join(sorted(unlocked))}: name them in at_once")
        yield self._connection

    def _has_locked(self, scope: Scope) -> bool:
        whole = scope.whole if isinstance(scope, PartScope) else scope
        return self._scopes is None or not self._scopes.isdisjoint((scope, whole))
