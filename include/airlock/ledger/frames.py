"""Between polars frames and the database: rows go in and out in chunks, and queries join with staged frames.

No statement is run per row, and none lists values in its text: SQLite allows 32,766 of them, a delivery has more.
"""

from __future__ import annotations

from io import BytesIO
from itertools import count
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    MetaData,
    Table,
    Text,
    and_,
    exists,
    insert,
    literal,
    select,
)

from airlock.ledger.errors import LedgerError
from airlock.ledger.tables import UtcDateTime
from airlock.records import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import FromClause, Select

CHUNK = 10_000
_TYPES: dict[Any, Any] = {pl.String: Text, pl.Int64: BigInteger, TIMESTAMP: UtcDateTime}
# COPY's text format; the backslash first (PostgreSQL's documentation of COPY, "Text Format").
_ESCAPES = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
_serial = count()


def shaped(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return the frame with the schema's columns only.

    A NUL in a text, which PostgreSQL cannot store, becomes U+FFFD: a hostile file shall not fail the whole delivery.

    Raises
    ------
    LedgerError
        If a column is missing or of another type.
    """
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise LedgerError(
            f"the frame lacks the columns {', '.join(missing)}: give the ledger all of {', '.join(schema)}"
        )
    try:
        typed = frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    except pl.exceptions.PolarsError:
        raise LedgerError(f"the frame's columns do not have the types of {dict(schema)}: cast them") from None
    return typed.with_columns(pl.col(pl.String).str.replace_all("\x00", "\ufffd", literal=True))


def uid_frame(uids: pl.Series, name: str) -> pl.DataFrame:
    """Return distinct UIDs as a frame of one column, for `stage`."""
    return pl.DataFrame({name: uids.cast(pl.String).drop_nulls().unique()})


def stage(
    connection: Connection, frames: pl.DataFrame | Iterable[pl.DataFrame], schema: pl.Schema, key: Sequence[str]
) -> Table:
    """Put rows into a temporary table of the transaction, for queries to join with.

    Parameters
    ----------
    connection
        In a transaction; the table goes with it.
    frames, schema
        The rows, in one frame or frame by frame, and which of their columns are wanted.
    key
        The columns that queries join on.
    """
    table = Table(
        f"staged_{next(_serial)}",
        MetaData(),
        *(Column(name, _TYPES[dtype]) for name, dtype in schema.items()),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )
    table.create(connection)
    fill = _copy if connection.dialect.name == "postgresql" else _insert
    for frame in (frames,) if isinstance(frames, pl.DataFrame) else frames:
        fill(connection, table, shaped(frame, schema))
    Index(f"ix_{table.name}", *(table.c[name] for name in key)).create(connection)
    connection.exec_driver_sql(f"ANALYZE {table.name}")  # without it the planner guesses how many rows there are
    return table


def _insert(connection: Connection, table: Table, frame: pl.DataFrame) -> None:
    for chunk in frame.iter_slices(CHUNK):
        connection.execute(insert(table), chunk.to_dicts())


def _copy(connection: Connection, table: Table, frame: pl.DataFrame) -> None:
    """Fill a table by COPY: some ten times faster than inserts."""
    text = pl.col(pl.String)
    for plain, escaped in _ESCAPES.items():
        text = text.str.replace_all(plain, escaped, literal=True)
    time = pl.col(TIMESTAMP).dt.to_string("%Y-%m-%d %H:%M:%S%.6f+00:00")
    cursor = connection.connection.cursor()
    for chunk in frame.iter_slices(20 * CHUNK):
        rows = chunk.with_columns(text, time).write_csv(
            include_header=False, separator="\t", quote_style="never", null_value=r"\N"
        )
        cursor.copy_expert(f"COPY {table.name} FROM STDIN", BytesIO(rows.encode()))
    cursor.close()


def restage(connection: Connection, table: Table, frame: pl.DataFrame, schema: pl.Schema) -> None:
    """Put other rows into a staged table in place of those it has: one table serves a delivery frame by frame."""
    is_postgres = connection.dialect.name == "postgresql"
    connection.exec_driver_sql(f"{'TRUNCATE' if is_postgres else 'DELETE FROM'} {table.name}")
    (_copy if is_postgres else _insert)(connection, table, shaped(frame, schema))


def fetch(connection: Connection, statement: Select[Any], schema: pl.Schema) -> pl.DataFrame:
    """Run a query and return its rows, its columns taken by position, as a frame of this schema."""
    return pl.concat([schema.to_frame(), *fetch_frames(connection, statement, schema)])


def fetch_frames(connection: Connection, statement: Select[Any], schema: pl.Schema) -> Iterator[pl.DataFrame]:
    """Run a query and yield its rows in frames of `CHUNK` rows, as `fetch` gives them all at once."""
    result = connection.execute(statement, execution_options={"stream_results": True, "max_row_buffer": CHUNK})
    for rows in result.partitions(CHUNK):
        yield pl.DataFrame([tuple(row) for row in rows], schema=schema, orient="row")


def insert_missing(connection: Connection, table: Table, rows: FromClause, on: Sequence[str], **constants: Any) -> int:
    """Insert the staged rows whose key the table does not have yet; the caller is alone in the table's scope.

    Parameters
    ----------
    connection
        In a transaction that writes.
    table, rows
        Where to, and the staged rows or a choice of them: their columns have the keys of the table's.
    on
        The columns that make up the table's key.
    constants
        Values of further columns, the same for each row.

    Returns
    -------
    int
        How many rows were inserted.
    """
    values: dict[str, Any] = {name: rows.c[name] for name in rows.c.keys()}  # noqa: SIM118  # not a dict
    values |= {name: literal(value, table.c[name].type) for name, value in constants.items()}
    twin = exists().where(and_(*(table.c[name] == values[name] for name in on)))
    source = select(*values.values()).where(~twin)
    return connection.execute(insert(table).from_select(list(values), source)).rowcount
