"""The ledger's clock: the database's, so that machines with different clocks agree on leases and due times.

The times that a call reads can be noted and given to the same call again, which then writes the same rows.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection


@dataclass
class Times:
    """The times of a call, and the digits that end the name of its entry in a journal, if it has one."""

    digits: str | None = None

    read: list[datetime] = field(default_factory=list)  # in the order in which the call has read them
    ended_at: datetime | None = None  # right before its transaction was committed, under its locks


_noted: ContextVar[Times | None] = ContextVar("noted", default=None)
_repeated: ContextVar[list[datetime] | None] = ContextVar("repeated", default=None)


def now() -> datetime:
    """Return the present time of this process."""
    return _read(lambda: datetime.now(UTC))


def database_time(connection: Connection) -> datetime:
    """Return the database's present time, aware.

    A SQLite ledger serves the processes of one machine, so this process's clock is the database's.
    """
    return _read(lambda: _ask(connection))


def _ask(connection: Connection) -> datetime:
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment.astimezone(UTC)


def _read(read: Callable[[], datetime]) -> datetime:
    left = _repeated.get()
    if left:
        return left.pop(0) if len(left) > 1 else left[0]
    moment, times = read(), _noted.get()
    if times is not None:
        times.read.append(moment)
    return moment


@contextmanager
def note_times(digits: str | None) -> Iterator[Times]:
    """Collect the times that the ledger reads within the block; the digits are those of the entry, if there is one."""
    times = Times(digits)
    token = _noted.set(times)
    try:
        yield times
    finally:
        _noted.reset(token)


@contextmanager
def repeat_times(times: Sequence[datetime]) -> Iterator[None]:
    """Let the ledger read these times again within the block; after the last one it reads that one."""
    token = _repeated.set(list(times))
    try:
        yield
    finally:
        _repeated.reset(token)


def end_call(connection: Connection) -> tuple[datetime, str] | None:
    """Note the time at which a transaction is about to be committed; return it with the digits of its entry, if any."""
    times = _noted.get()
    if times is None:
        return None
    times.ended_at = _ask(connection)
    return None if times.digits is None else (times.ended_at, times.digits)
