"""A ledger on SQLite that does once what the real one does anew for each call: connections and staged tables.

The statements are the library's own. Temporary tables keep their names, so that SQLAlchemy compiles each statement
once; and they are not analysed, since a history has a handful of rows.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import polars as pl
from sqlalchemy import Column, Connection, Engine, MetaData, Table, create_engine, event
from sqlalchemy.pool import QueuePool

from airlock.ledger import Ledger, frames, upgrade
from airlock.ledger.database import _begin_sqlite, _configure_sqlite
from airlock.records import TIMESTAMP
from tests.explore.folder import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_EMPTY, _FILE = FOLDER / "empty.db", FOLDER / "ledger.db"
_COUNT = "airlock_staged"


class QuickLedger(Ledger):
    """A ledger that begins empty for each history."""

    @classmethod
    def make(cls) -> QuickLedger:
        """Create the file."""
        upgrade(f"sqlite:///{_EMPTY}")
        engine = create_engine(
            f"sqlite:///{_FILE}",
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=16,
            query_cache_size=4000,
            connect_args={"check_same_thread": False, "cached_statements": 1000},
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "begin", _begin_staging)
        made = cls(engine)
        made.reset()
        return made

    @property
    def engine(self) -> Engine:
        """The engine."""
        return self._engine

    def reset(self) -> None:
        """Empty the ledger."""
        self._engine.dispose()
        for file in FOLDER.glob("ledger.db*"):
            file.unlink()
        shutil.copyfile(_EMPTY, _FILE)

    @contextmanager
    def quickly(self) -> Iterator[None]:
        """Use the staged tables of this module within the block."""
        modules = [module for name, module in list(sys.modules.items()) if name.startswith("airlock.ledger")]
        with ExitStack() as changes:
            for name, quick in (("stage", _stage), ("index_staged", _leave_without_index)):
                real = getattr(frames, name)
                for module in modules:
                    if getattr(module, name, None) is real:
                        changes.enter_context(patch.object(module, name, quick))
            yield


def _begin_staging(connection: Connection) -> None:
    connection.info[_COUNT] = 0


@cache
def _make_table(number: int, columns: tuple[tuple[str, Any], ...]) -> tuple[Table, str, str, str]:
    """Return a temporary table, and the statements that create, empty and fill it."""
    table = Table(
        f"staged_{number}_{hash(columns) & 0xFFFFFFFF:x}",
        MetaData(),
        *(Column(name, frames._TYPES[kind]) for name, kind in columns),
        prefixes=["TEMPORARY"],
    )
    names = ", ".join(f'"{name}" {_SQL_TYPES[kind]}' for name, kind in columns)
    fill = f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(columns))})"  # names of our own
    return table, f"CREATE TEMPORARY TABLE IF NOT EXISTS {table.name} ({names})", f"DELETE FROM {table.name}", fill


_SQL_TYPES: dict[Any, str] = {pl.String: "TEXT", pl.Int64: "BIGINT", TIMESTAMP: "DATETIME"}


def _stage(
    connection: Connection,
    rows: pl.DataFrame | Iterable[pl.DataFrame],
    schema: pl.Schema,
    key: Sequence[str] = (),  # a few rows need no index
) -> Table:
    """Return a temporary table with these rows, as `airlock.ledger.frames.stage`."""
    number = connection.info[_COUNT]
    connection.info[_COUNT] = number + 1
    table, create, empty, fill = _make_table(number, tuple(schema.items()))
    connection.exec_driver_sql(create)
    connection.exec_driver_sql(empty)
    for frame in (rows,) if isinstance(rows, pl.DataFrame) else rows:
        typed = frames.select_schema(frame, schema)
        if typed.height:
            times = pl.col(TIMESTAMP).dt.to_string(frames._SQLITE_TIME)
            connection.exec_driver_sql(fill, typed.with_columns(times).rows())
    return table


def _leave_without_index(_connection: Connection, table: Table, _key: Sequence[str]) -> Table:
    """Return the table: a few rows need no index, and a table that is used again would have it already."""
    return table
