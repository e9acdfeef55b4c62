"""The ledger's one exception, and the translation of a database's own into it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, StatementError

if TYPE_CHECKING:
    from collections.abc import Iterator


class LedgerError(Exception):
    """The ledger refuses or cannot do what was asked; the text says why and what to do, and names no row's content."""


class LedgerUnreachableError(LedgerError):
    """The ledger's database does not answer."""


class LedgerSchemaError(LedgerError):
    """There is no ledger where one is looked for, or its schema is not this Airlock's."""


def _describe(error: StatementError) -> str:
    """Describe a driver's error without the values that its own text may quote (a key, a patient's identifier)."""
    origin = error.orig
    if not isinstance(error, DBAPIError):  # a value that could not be bound
        return type(origin).__name__
    state = getattr(origin, "pgcode", None)
    if state is None:  # SQLite, whose texts name tables and columns only, or no connection, so no row either
        return f"{type(origin).__name__}: {str(origin).strip()}"
    constraint = getattr(getattr(origin, "diag", None), "constraint_name", None)
    return f"{type(origin).__name__}, SQLSTATE {state}" + (f", constraint {constraint}" if constraint else "")


@contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Turn a driver's error into a `LedgerError`, without its chain: the original text may quote a row.

    Parameters
    ----------
    address
        The ledger's address, without a password.
    """
    try:
        yield
    except StatementError as error:  # a DBAPIError is one
        away = isinstance(error, OperationalError | InterfaceError)
        raise (LedgerUnreachableError if away else LedgerError)(
            f"the ledger at {address} failed ({_describe(error)}): "
            "check that the database is up and reachable, then clear the task"
        ) from None
