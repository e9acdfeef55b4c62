"""Indexes that a step adds to tables with millions of rows; they are built while runs go on writing.

Within the transaction of the steps an index would be built under a lock that stops every writer. So a step does not
create it: its `Index` in `tables` has ``info=CONCURRENTLY``, and each upgrade builds what is missing after the steps.
An index only makes questions faster: the ledger is in order while it is built, and after an interruption. Alembic's
``autocommit_block`` cannot be used here: it would commit the transaction that holds the lock of the upgrade.
"""

from __future__ import annotations

from time import sleep
from typing import TYPE_CHECKING

from sqlalchemy import func, inspect, select, text
from sqlalchemy.schema import CreateIndex, DropIndex

from airlock.ledger.columns import CONCURRENTLY, metadata
from airlock.ledger.database import shown_address, writing
from airlock.ledger.errors import translate_errors
from airlock.records import digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine, Index, MetaData

_KEY = int(digest("airlock ledger", "large indexes", length=15), 16)
_PAUSE_SECONDS = 1.0
_INVALID = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"


def build_missing(engine: Engine, report: Callable[[str], None], tables: MetaData = metadata) -> None:
    """Build the indexes of large tables that a ledger does not have, one by one."""
    indexes = [
        index for table in tables.sorted_tables for index in table.indexes if CONCURRENTLY.items() <= index.info.items()
    ]
    if not indexes:
        return
    if engine.dialect.name != "postgresql":
        with writing(engine, "schema") as connection:
            for index in indexes:
                index.create(connection, checkfirst=True)
        return
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with translate_errors(shown_address(engine)), autocommit.connect() as connection:
        _wait_for_turn(connection)
        for index in indexes:
            _build(connection, index, report)


def _wait_for_turn(connection: Connection) -> None:
    # Whoever waited within pg_advisory_lock would have a snapshot, for whose end CREATE INDEX CONCURRENTLY waits.
    while not connection.scalar(select(func.pg_try_advisory_lock(_KEY))):
        sleep(_PAUSE_SECONDS)


def _build(connection: Connection, index: Index, report: Callable[[str], None]) -> None:
    """Build an index, unless it is there; one that an interrupted upgrade has left unfinished is dropped first."""
    index.dialect_options["postgresql"]["concurrently"] = True
    if connection.execute(text(_INVALID), {"name": index.name}).first() is not None:
        connection.execute(DropIndex(index))
    table = index.table
    assert table is not None  # noqa: S101  # it was found in its table
    if index.name not in {found["name"] for found in inspect(connection).get_indexes(table.name)}:
        report(f"building the index {index.name} while runs go on")
        connection.execute(CreateIndex(index))
