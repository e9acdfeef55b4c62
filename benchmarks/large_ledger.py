"""A ledger of millions of arrivals on PostgreSQL: SQL multiplies those that runs have settled."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg2  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.servers.postgres import Postgres

# Ids are 32 digits, as those of `claims.listed`. The copies of a table's rows belong to the arrivals' copies.
COPIED = {
    "arrival_id": "translate(md5(arrival_id || time), 'abcdef', '012345')",
    "key": "key || '-' || time",
}
# The same, and each copy of a run has its own arrivals and studies. A name that is null stays null.
COPIED_RUNS = COPIED | {
    "run_key": "run_key || '-' || time",
    "run_id": "run_id || '-' || time",
    "said_by": "said_by || '-' || time",
    "study_key": "left(md5(study_key || time), 16)",
    "study_instance_uid": "study_instance_uid || '.' || time",
    "series_instance_uid": "series_instance_uid || '.' || time",
    "sop_instance_uid": "sop_instance_uid || '.' || time",
    "unreleased_instance_uid": "unreleased_instance_uid || '.' || time",
}
ARRIVALS = ("arrivals", "verdicts", "words")  # the tables with a row per arrival; older schemas have only the first
LARGE = (*ARRIVALS, "instances")  # tables that no statement of a claim may read as a whole
_EXISTING = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname = ANY (string_to_array('{}', ','))"
_COLUMNS = """SELECT attname FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped
    AND NOT EXISTS (SELECT 1 FROM pg_attrdef WHERE adrelid = attrelid AND adnum = attnum AND attname = 'id')"""
_INDEXES = """SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid = '{0}'::regclass AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid)"""
_PRIMARY_KEY = """SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = '{}'::regclass AND contype = 'p'"""
_COPY = "INSERT INTO {table} ({names}) SELECT {copied} FROM {table}, generate_series(2, {times}) AS time"


def execute(postgres: Postgres, database: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement in a transaction of its own and return its rows."""
    connection = psycopg2.connect(host=str(postgres.folder), user="airlock", dbname=database)
    with closing(connection), connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def multiply(
    postgres: Postgres, database: str, times: int, copied: Mapping[str, str] = COPIED, more: tuple[str, ...] = ()
) -> None:
    """Copy each arrival, with its verdict and its words, so that there are so many times as many; ids have no order.

    Parameters
    ----------
    postgres, database
        The server and the ledger's database.
    times
        How many times as many rows there are to be.
    copied
        The columns that differ in a copy, as SQL, with ``time`` for the number of the copy.
    more
        Further tables to copy, of few rows.
    """
    for (table,) in execute(postgres, database, _EXISTING.format(",".join((*ARRIVALS, *more)))):
        names = [name for (name,) in execute(postgres, database, _COLUMNS.format(table))]
        values = ", ".join(copied.get(name, name) for name in names)
        copy = _COPY.format(table=table, names=", ".join(names), copied=values, times=times)
        for statement in _without_indexes(postgres, database, table, copy) if table in ARRIVALS else [copy]:
            execute(postgres, database, statement)


def _without_indexes(postgres: Postgres, database: str, table: str, copy: str) -> list[str]:
    """Return the statements that drop a table's indexes, copy its rows, and build the indexes again."""
    indexes = execute(postgres, database, _INDEXES.format(table))
    keys = execute(postgres, database, _PRIMARY_KEY.format(table))
    return [
        *(f"DROP INDEX {name}" for name, _ in indexes),
        *(f"ALTER TABLE {table} DROP CONSTRAINT {name} CASCADE" for name, _ in keys),
        copy,
        *(text for _, text in indexes),
        *(f"ALTER TABLE {table} ADD CONSTRAINT {name} {text}" for name, text in keys),
    ]
