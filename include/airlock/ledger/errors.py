"""The ledger's exceptions, and the translation of the database driver's errors into them."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator


_LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's lock_timeout
_CANCELED = "57014"  # PostgreSQL's statement_timeout


class LedgerError(Exception):
    """The ledger refuses or fails a request; the text has the cause and the remedy, and no value of a row."""


class LedgerUnreachableError(LedgerError):
    """The ledger's database does not answer."""


class LedgerLockedError(LedgerError):
    """Others use a table for longer than the request may wait."""


class LedgerSlowError(LedgerError):
    """An answer takes longer than its reader waits."""


class RebuildTakenError(LedgerError):
    """Another process goes on with the same rebuild, or has ended it."""


class LedgerSchemaError(LedgerError):
    """The database holds no ledger, or a ledger with the schema of another version of Airlock."""


def _describe(error: StatementError) -> str:
    """Return a description of a driver's error, without the values that its own text may quote (keys, patient ids)."""
    origin = error.orig
    if not isinstance(error, DBAPIError):  # a value that could not be bound
        return type(origin).__name__
    state = getattr(origin, "pgcode", None)
    if state is None:  # SQLite, whose texts name only tables and columns; or a failed connection, which has no row
        return f"{type(origin).__name__}: {str(origin).strip()}"
    constraint = getattr(getattr(origin, "diag", None), "constraint_name", None)
    return f"{type(origin).__name__}, SQLSTATE {state}" + (f", constraint {constraint}" if constraint else "")


def _find_remedy(error: StatementError) -> str:
    text = "" if getattr(error.orig, "pgcode", None) else str(error.orig)
    if "SSL" in text or "certificate" in text:  # libpq's, of a connection that failed
        return "let the server use TLS, and name its authority in the address: sslmode=verify-full&sslrootcert=FILE"
    return "check that the database is up and reachable"


def _was_canceled(origin: BaseException | None) -> bool:
    """Return whether a statement was ended because it took too long."""
    interrupted = getattr(origin, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
    return interrupted or getattr(origin, "pgcode", None) == _CANCELED


@contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Raise a driver's error as a `LedgerError`, without the original error: its text may quote a row.

    Parameters
    ----------
    address
        The ledger's address, without a password.
    """
    try:
        yield
    except PoolTimeoutError:
        raise LedgerSlowError(f"all connections to the ledger at {address} are in use: repeat this later") from None
    except StatementError as error:  # a DBAPIError is one
        if _was_canceled(error.orig):
            raise LedgerSlowError(f"the ledger at {address} did not answer in time: ask for less") from None
        if getattr(error.orig, "pgcode", None) == _LOCK_NOT_AVAILABLE:
            raise LedgerLockedError(f"the ledger at {address} is in use: repeat this when fewer tasks run") from None
        unreachable = isinstance(error, OperationalError | InterfaceError)
        raise (LedgerUnreachableError if unreachable else LedgerError)(
            f"the ledger at {address} failed ({_describe(error)}): {_find_remedy(error)}, then clear the task"
        ) from None
