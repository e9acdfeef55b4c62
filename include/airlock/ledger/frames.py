"""Transfer between polars frames and the database, in chunks; queries join with staged frames.

No statement runs per row, and none lists values in its text: SQLite allows 32,766 of them, a delivery has more.
On PostgreSQL both directions use COPY in its text format (PostgreSQL's documentation of COPY, "Text Format"): it costs
the client a fifth of the driver's own conversion.
"""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO
from itertools import count
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any, cast

import polars as pl
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    MetaData,
    Table,
    Text,
    func,
    insert,
    literal,
    select,
    text,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from airlock.ledger.columns import UtcDateTime
from airlock.ledger.errors import LedgerError
from airlock.records import TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, CompoundSelect, FromClause, Select

CHUNK = 10_000
COPY_CHUNK = 200_000  # rows
COPY_BYTES = 16 * 1024**2
HASH_MIB = 256  # memory for PostgreSQL to hash staged rows; with its default of 4 MiB it would use the disk
_TYPES: dict[Any, Any] = {pl.String: Text, pl.Int64: BigInteger, TIMESTAMP: UtcDateTime}
_NULL = r"\N"
_SQLITE_TIME = "%Y-%m-%d %H:%M:%S%.6f"  # as SQLAlchemy stores a time
# The backslash comes first. PostgreSQL escapes the last three when it writes, although it reads them unescaped too.
_ESCAPES = {
    "\\": r"\\",
    "\t": r"\t",
    "\n": r"\n",
    "\r": r"\r",
    "\b": r"\b",
    "\f": r"\f",
    "\v": r"\v",
}
_TO_ESCAPE = r"[\\\t\n\r\x08\f\v]"
_BY_INDEX, _MERGED = ("hashjoin", "mergejoin"), ("hashjoin", "nestloop")  # what is forbidden for it
_INSERTS: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
_serial = count()


def select_schema(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return the schema's columns of a frame, cast to its types.

    A NUL in a text becomes U+FFFD: PostgreSQL cannot store it, and one hostile file must not fail the delivery.

    Raises
    ------
    LedgerError
        If a column is missing or cannot be cast.
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


def number_rows(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Add the column ``position``: the number of each row among those of all frames."""
    first = 0
    for frame in frames:
        yield frame.with_columns(position=pl.int_range(first, first + pl.len(), dtype=pl.Int64))
        first += frame.height


def count_rows(connection: Connection, rows: FromClause) -> int:
    """Return the number of rows of a table or a query."""
    return int(connection.execute(select(func.count()).select_from(rows)).scalar_one())


def uid_frame(uids: pl.Series, name: str) -> pl.DataFrame:
    """Return the distinct UIDs, without nulls, as a frame of one column, for `stage`."""
    return pl.DataFrame({name: uids.cast(pl.String).drop_nulls().unique()})


def stage(
    connection: Connection, frames: pl.DataFrame | Iterable[pl.DataFrame], schema: pl.Schema, key: Sequence[str] = ()
) -> Table:
    """Return a new temporary table with these rows, for queries of the same transaction to join with.

    Parameters
    ----------
    connection
        In a transaction; the table is dropped at its end.
    frames, schema
        The rows, in one frame or frame by frame, and the columns to stage.
    key
        The columns that queries join on. Without one the rows are only read from the first to the last: they get no
        index, and a statement that joins them has to choose how (`forbid_plans`).
    """
    table = _create_staged(connection, schema)
    fill = _copy_in if connection.dialect.name == "postgresql" else _insert
    for frame in (frames,) if isinstance(frames, pl.DataFrame) else frames:
        fill(connection, table, select_schema(frame, schema))
    return index_staged(connection, table, key) if key else table


def stage_query(
    connection: Connection, query: Select[Any] | CompoundSelect[Any], schema: pl.Schema, key: Sequence[str] = ()
) -> Table:
    """Return a new temporary table with the rows of a query, which has the schema's columns in order; see `stage`.

    Without a key it is to be read from its beginning to its end: it has no index.
    """
    table = _create_staged(connection, schema)
    connection.execute(insert(table).from_select(list(schema), query))
    return index_staged(connection, table, key) if key else table


def _create_staged(connection: Connection, schema: pl.Schema) -> Table:
    table = Table(
        f"staged_{next(_serial)}",
        MetaData(),
        *(Column(name, _TYPES[dtype]) for name, dtype in schema.items()),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )
    table.create(connection)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL work_mem TO '{HASH_MIB}MB'")
    return table


def index_staged(connection: Connection, table: Table, key: Sequence[str]) -> Table:
    """Index a staged table by further columns that queries join on, and return it.

    A staged table that is looked up must have an index. PostgreSQL takes rows of a data store, pipeline or table
    without statistics for one row, and would read a staged table without an index as a whole for each of them.
    """
    if connection.dialect.name == "postgresql":
        # An index of one column costs least. The planner uses it where the other table's statistics mislead it.
        Index(f"ix_{table.name}_{key[0]}", table.c[key[0]], postgresql_using="hash").create(connection)
    else:
        Index(f"ix_{table.name}_{key[0]}", *(table.c[name] for name in key)).create(connection)
    columns = ", ".join(connection.dialect.identifier_preparer.quote(name) for name in key)
    # Otherwise the planner guesses the number of rows. The statistics of columns that are only read cost CPU.
    only = f" ({columns})" if connection.dialect.name == "postgresql" else ""
    connection.exec_driver_sql(f"ANALYZE {table.name}{only}")
    return table


def stage_values(connection: Connection, values: pl.Series, column: str) -> Table:
    """Return a new temporary table of one column with the distinct values, without nulls; see `stage`."""
    return stage(connection, uid_frame(values, column), pl.Schema({column: pl.String}), [column])


def fetch_by_values(
    connection: Connection,
    table: Table,
    schema: pl.Schema,
    values: pl.Series,
    column: str,
    *conditions: ColumnElement[bool],
) -> pl.DataFrame:
    """Return the rows of a table, as a frame of this schema, whose column has one of these values."""
    rows = stage_values(connection, values, column)
    joined = select(*(table.c[name] for name in schema)).join(rows, table.c[column] == rows.c[column])
    return fetch(connection, joined.where(*conditions), schema)


@contextmanager
def forbid_plans(connection: Connection, *ways: str) -> Iterator[None]:
    """Forbid PostgreSQL some ways (``hashjoin``, ``nestloop``, ``seqscan``) within the block, or until it raises.

    For millions of staged rows PostgreSQL would choose a hash join in batches, each of which reads pages all over the
    other table, or a lookup per row. A merge join reads both tables in the order of the joined columns. It merges by
    ``=`` only: columns compared by ``IS NOT DISTINCT FROM`` are compared row by row.
    """
    ways = ways if connection.dialect.name == "postgresql" else ()
    for way in ways:
        connection.exec_driver_sql(f"SET LOCAL enable_{way} TO off")
    yield
    for way in ways:
        connection.exec_driver_sql(f"SET LOCAL enable_{way} TO DEFAULT")


_SIZE = text("SELECT reltuples FROM pg_class WHERE oid = CAST(:name AS regclass)")  # as of the last ANALYZE or VACUUM
_FEW = 20  # a lookup of a row costs as much as reading about this many in order


def choose_join(connection: Connection, large: Table, rows: Table) -> tuple[str, str]:
    """Return the ways to forbid (`forbid_plans`), so that PostgreSQL joins staged rows with a large table well.

    Few rows are looked up one by one, so that the time does not grow with the ledger. Many are merged with all rows of
    the table, in the order of its primary key: so are all while the table's size is unknown.
    """
    if connection.dialect.name != "postgresql":
        return _MERGED
    size = connection.execute(_SIZE, {"name": large.name}).scalar_one()
    return _BY_INDEX if count_rows(connection, rows) * _FEW < size else _MERGED


def compress_quickly(connection: Connection) -> None:
    """Let PostgreSQL compress the long texts of this transaction with LZ4, at a quarter of the CPU, if it has LZ4.

    PostgreSQL reads each value by the compression that it was stored with.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT set_config(name, 'lz4', true) FROM pg_settings"
            " WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)"
        )


def _insert(connection: Connection, table: Table, frame: pl.DataFrame) -> None:
    # Rows that SQLAlchemy would bind one by one cost it three times the CPU of the driver.
    statement = str(insert(table).compile(dialect=connection.dialect))
    for chunk in frame.with_columns(pl.col(TIMESTAMP).dt.to_string(_SQLITE_TIME)).iter_slices(CHUNK):
        connection.exec_driver_sql(statement, chunk.rows())


@contextmanager
def _driver_cursor(connection: Connection) -> Iterator[Any]:
    """Yield a cursor of the driver, which can COPY; its errors are raised as SQLAlchemy's, as for any statement."""
    cursor = connection.connection.cursor()
    try:
        yield cursor
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(None, None, error) from None
    finally:
        cursor.close()


def _copy_in(connection: Connection, table: Table, frame: pl.DataFrame) -> None:
    time = pl.col(TIMESTAMP).dt.to_string("%Y-%m-%d %H:%M:%S%.6f+00:00")
    with _driver_cursor(connection) as cursor:
        for chunk in frame.iter_slices(COPY_CHUNK):
            rows = BytesIO()
            _escape(chunk).with_columns(time).write_csv(
                rows, include_header=False, separator="\t", quote_style="never", null_value=_NULL
            )
            rows.seek(0)
            cursor.copy_expert(f"COPY {table.name} FROM STDIN (ENCODING 'UTF8')", rows)


def _escape(rows: pl.DataFrame) -> pl.DataFrame:
    """Escape the texts for COPY. To look whether a column needs it is a tenth of the CPU; most columns do not."""
    found = rows.select(pl.col(pl.String).str.contains(_TO_ESCAPE).any()).to_dicts()
    text = pl.col([name for texts in found for name, needs in texts.items() if needs])
    for plain, escaped in _ESCAPES.items():
        text = text.str.replace_all(plain, escaped, literal=True)
    return rows.with_columns(text)


def fetch(connection: Connection, statement: Select[Any], schema: pl.Schema) -> pl.DataFrame:
    """Run a query and return its rows as a frame of this schema, whose columns are those of the query by position."""
    return pl.concat([schema.to_frame(), *fetch_frames(connection, statement, schema)])


def fetch_frames(connection: Connection, statement: Select[Any], schema: pl.Schema) -> Iterator[pl.DataFrame]:
    """Run a query and yield its rows as `fetch`, frame by frame; memory does not grow with their number.

    Rows of PostgreSQL are in a local file when this returns; rows of SQLite can be read while the connection is open.
    """
    if connection.dialect.name == "postgresql":
        return _read_blocks(_copy_out(connection, statement), schema)
    return _stream_rows(connection, statement, schema)


def _stream_rows(connection: Connection, statement: Select[Any], schema: pl.Schema) -> Iterator[pl.DataFrame]:
    result = connection.execute(statement, execution_options={"stream_results": True, "max_row_buffer": CHUNK})
    for rows in result.partitions(CHUNK):
        yield pl.DataFrame([tuple(row) for row in rows], schema=schema, orient="row")


def _copy_out(connection: Connection, statement: Select[Any]) -> IO[bytes]:
    """Copy a query's rows to a local file: the driver pushes all rows at once and cannot wait for a reader."""
    query = statement.compile(dialect=connection.dialect).construct_expanded_state()
    values = {name: query.processors.get(name, _return_unchanged)(value) for name, value in query.parameters.items()}
    file = SpooledTemporaryFile(max_size=COPY_BYTES)  # noqa: SIM115  (the reader closes it)
    with _driver_cursor(connection) as cursor:
        cursor.execute("SET LOCAL TimeZone TO 'UTC'")
        text = cursor.mogrify(query.statement, values)
        cursor.copy_expert(b"COPY (" + text + b") TO STDOUT (ENCODING 'UTF8')", file)
    return cast("IO[bytes]", file)


def _read_blocks(file: IO[bytes], schema: pl.Schema) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file that was copied out, and close it."""
    with file:
        file.seek(0)
        while block := file.read(COPY_BYTES) + file.readline():
            yield _parse_copied(block, schema)


def _return_unchanged(value: Any) -> Any:
    return value


def _parse_copied(block: bytes, schema: pl.Schema) -> pl.DataFrame:
    """Return the rows in whole lines of COPY's text format."""
    rows = pl.read_csv(
        block,
        has_header=False,
        separator="\t",
        quote_char=None,
        null_values=_NULL,
        empty_string_is_null=False,
        schema={name: pl.Int64 if kind == pl.Int64 else pl.String for name, kind in schema.items()},
    )
    kinds: dict[Any, Callable[[pl.Expr], pl.Expr]] = {
        pl.String: _unescape if b"\\" in block else _return_unchanged,
        pl.Int64: _return_unchanged,
        pl.Boolean: lambda column: column == "t",
        TIMESTAMP: lambda column: column.str.to_datetime("%Y-%m-%d %H:%M:%S%.f+00", time_unit="us", time_zone="UTC"),
    }
    return rows.with_columns(kinds[kind](pl.col(name)) for name, kind in schema.items())


def _unescape(text: pl.Expr) -> pl.Expr:
    """Undo the escapes. A NUL, which no text of the database holds, stands for the backslash in between."""
    for plain, escaped in _ESCAPES.items():
        text = text.str.replace_all(escaped, "\x00" if plain == "\\" else plain, literal=True)
    return text.str.replace_all("\x00", "\\", literal=True)


def insert_for(connection: Connection, table: Table) -> Any:
    """Return the database's own INSERT, which can handle conflicts."""
    return _INSERTS[connection.dialect.name](table)


def insert_missing(
    connection: Connection,
    table: Table,
    rows: FromClause,
    on: Sequence[str],
    order: Sequence[str] = (),
    **constants: Any,
) -> int:
    """Insert the staged rows whose key is not in the table yet.

    Parameters
    ----------
    connection
        In a transaction that writes.
    table, rows
        The target, and the staged rows: their columns have the keys of the table's, or are named in *order* only.
    on
        The columns of the table's primary key, or of another unique constraint.
    order
        The columns to sort by before inserting; of rows with the same key the first is inserted.
    constants
        Values of further columns, the same for each row.

    Returns
    -------
    int
        The number of inserted rows.
    """
    values: dict[str, Any] = {name: rows.c[name] for name in rows.c.keys() if name in table.c}  # noqa: SIM118  # no dict
    values |= {name: literal(value, table.c[name].type) for name, value in constants.items()}
    # Without a WHERE SQLite would read ON CONFLICT as a join (its documentation of UPSERT, "Parsing Ambiguity").
    source = select(*values.values()).where(true()).order_by(*(rows.c[name] for name in order))
    statement = insert_for(connection, table).from_select(list(values), source)
    return connection.execute(statement.on_conflict_do_nothing(index_elements=[table.c[name] for name in on])).rowcount
