"""Copy a ledger to another database: from SQLite to PostgreSQL, for example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, insert, inspect, select, text

from airlock.ledger import comparison_tables, decision_tables, edge_tables, tables  # noqa: F401  # all fill the metadata
from airlock.ledger.columns import metadata
from airlock.ledger.database import engine_for, parse_url, reading, shown_address, sqlite_file, writing
from airlock.ledger.errors import LedgerError
from airlock.ledger.schema import REVISION, check, upgrade

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Connection, Table

_ROWS = 5_000  # in one statement


def transfer(source: str, target: str, report: Callable[[str], None] = lambda _: None) -> int:
    """Copy all rows of a ledger to an empty one, in one transaction; nothing writes to the source meanwhile.

    Parameters
    ----------
    source, target
        The addresses. The target is created if it is not there.
    report
        Gets a sentence per table.

    Returns
    -------
    int
        The number of rows.

    Raises
    ------
    LedgerError
        If the source has another schema than this Airlock, the target has rows, or both are the same.
    """
    if _find_place(parse_url(source)) == _find_place(parse_url(target)):
        raise LedgerError("the source and the target are the same ledger: name an empty database as the target")
    upgrade(target, report)
    old, new = engine_for(parse_url(source)), engine_for(parse_url(target))
    try:
        if check(old) != REVISION:
            raise LedgerError(f"the ledger at {shown_address(old)} has a newer schema: copy it with the newer Airlock")
        with reading(new) as connection:  # before the locks: another address may lead to the source
            _need_empty(connection)
        with writing(old, "schema") as reader, writing(new, "schema") as writer:
            _need_empty(writer)
            return sum(_copy(table, reader, writer, report) for table in metadata.sorted_tables)
    finally:
        old.dispose()
        new.dispose()


def _find_place(url: URL) -> tuple[object, ...]:
    """Return where a ledger is, without the user and the driver."""
    file = sqlite_file(url)
    if file is not None:
        return (file.resolve(),)
    return url.host or url.query.get("host"), url.port or url.query.get("port", 5432), url.database


def _need_empty(connection: Connection) -> None:
    if any(connection.execute(select(table).limit(1)).first() for table in metadata.sorted_tables):
        raise LedgerError(f"the ledger at {shown_address(connection.engine)} has rows already: name an empty database")


def _copy(table: Table, reader: Connection, writer: Connection, report: Callable[[str], None]) -> int:
    """Copy a table's rows, and let the database count on from the highest number."""
    found = reader.execution_options(yield_per=_ROWS).execute(select(table))
    keys = [column.key for column in table.columns]
    for some in found.partitions():
        writer.execute(insert(table), [dict(zip(keys, row, strict=True)) for row in some])
    rows = int(writer.execute(select(func.count()).select_from(table)).scalar_one())
    number = inspect(table).autoincrement_column
    if number is not None and rows and writer.dialect.name == "postgresql":
        sequence = f"pg_get_serial_sequence('{table.name}', '{number.name}')"
        writer.execute(text(f"SELECT setval({sequence}, (SELECT max({number.name}) FROM {table.name}))"))  # noqa: S608
    report(f"{table.name}: {rows:,} rows")
    return rows
