"""Generations: the same object version, processed again as an arrival of its own.

A generation follows where an object is owed, where a person redrives it, and where a content returns under its key
after another one (A, B, A).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, exists, func, or_, select, true, union_all, update

from airlock.ledger.arrival_states import arrival_states
from airlock.ledger.frames import count_rows, fetch, forbid_plans, insert_missing, stage, stage_query
from airlock.ledger.owed import COME_AGAIN
from airlock.ledger.tables import arrivals, newest_contents, owed, successors
from airlock.records import TIMESTAMP, Disposition, digest, schema

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, FromClause, Select, Table

STOPPED = (Disposition.QUARANTINED.value, Disposition.FAILED.value)  # dispositions without an import
_BY_INDEX = ("hashjoin", "mergejoin")  # forbidden, so that each staged row is looked up in the indexes of arrivals
_NEXT = pl.Schema({"arrival_id": pl.String, "next_id": pl.String})
# The columns that are staged of known objects too, with times in microseconds: PostgreSQL parses numbers much faster.
LISTED_KEYS = schema(
    dict.fromkeys(("arrival_id", "bucket", "key"), pl.String), dict.fromkeys(("last_modified", "position"), pl.Int64)
)
_SPECIAL = schema(
    {"arrival_id": pl.String, "last_modified": pl.Int64},
    {
        "newest_id": pl.String,  # the newest content of its key, where the key had several
    },
    {"newest_at": TIMESTAMP},
    {"owed_id": pl.String},  # the arrival that is owed under its key, and due
)
_CONTENTS = schema(dict.fromkeys(("bucket", "key", "arrival_id"), pl.String), {"last_modified": TIMESTAMP})
_BEFORE = pl.Schema({"arrival_id": pl.String, "successor_id": pl.String})
_LINKS = pl.Schema({"arrival_id": pl.String, "superseded_by": pl.String})


def next_generation(arrival_id: str) -> str:
    """Return the id that the same object version gets when it is processed again."""
    return digest(arrival_id, "again")


def find_generations(connection: Connection, pipeline: str, rows: Table, due: datetime) -> pl.DataFrame:
    """Return the staged arrivals of which another generation counts now: ``arrival_id`` and its ``next_id``.

    Parameters
    ----------
    connection, pipeline
        A transaction, and the pipeline.
    rows
        The staged listing, as `LISTED_KEYS`. Only arrivals that are owed, that have a successor, or whose key has had
        several contents can have further generations; these are few.
    due
        An object that is owed comes again if its next attempt is at or before this time.
    """
    found = fetch(connection, _select_special(pipeline, rows, due), _SPECIAL).unique("arrival_id", maintain_order=True)
    if found.is_empty():
        return _NEXT.to_frame()
    known = _find_existing(connection, pipeline, found["arrival_id"])
    found = found.filter(pl.col("arrival_id").is_in(sorted(known))).cast({"last_modified": TIMESTAMP})
    latest = _find_latest(connection, pipeline, found["arrival_id"].to_list())
    of_owed = found.filter(pl.col("owed_id").is_not_null())["arrival_id"]
    unread = _find_unread(connection, pipeline, {latest[name] for name in of_owed})
    steps: dict[str, str] = {}
    for name, modified, newest_id, newest_at, owed_id in found.iter_rows():
        last = latest[name]
        returns = newest_id is not None and newest_id != last and modified > newest_at
        # The next generation was claimed and given back. The debt may be of another content under the key.
        comes_again = owed_id in {last, next_generation(last)} or last in unread
        following = next_generation(last) if returns or comes_again else last
        if following != name:
            steps[name] = following
    return pl.DataFrame(list(steps.items()), schema=_NEXT, orient="row")


def _select_special(pipeline: str, rows: Table, due: datetime) -> Select[Any]:
    """Return the query for the staged arrivals that may have further generations, as `_SPECIAL`."""
    content, debt = _is_under_key(newest_contents, pipeline, rows), _is_under_key(owed, pipeline, rows)
    debt = and_(debt, owed.c.taken_by.is_(None), owed.c.next_attempt_at <= due)
    redriven = and_(successors.c.arrival_id == rows.c.arrival_id, successors.c.pipeline == pipeline)
    newest = newest_contents.c
    found = or_(newest.arrival_id.is_not(None), owed.c.arrival_id.is_not(None), successors.c.arrival_id.is_not(None))
    return (
        select(rows.c.arrival_id, rows.c.last_modified, newest.arrival_id, newest.last_modified, owed.c.arrival_id)
        .outerjoin(newest_contents, content)
        .outerjoin(owed, debt)
        .outerjoin(successors, redriven)
        .where(found)
    )


def _is_under_key(table: Table, pipeline: str, rows: FromClause) -> ColumnElement[bool]:
    """Return the condition that a row of a table is about the key of a staged row."""
    return and_(table.c.pipeline == pipeline, table.c.bucket == rows.c.bucket, table.c.key == rows.c.key)


def _is_known(pipeline: str, rows: FromClause) -> ColumnElement[bool]:
    return exists().where(arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.pipeline == pipeline)


def _find_latest(connection: Connection, pipeline: str, ids: list[str]) -> dict[str, str]:
    """Return the id of the latest generation of each arrival."""
    latest = {name: name for name in ids}
    underway = list(ids)
    while underway:
        following = {name: next_generation(latest[name]) for name in underway}
        existing = _find_existing(connection, pipeline, following.values())
        underway = [name for name in underway if following[name] in existing]
        latest |= {name: following[name] for name in underway}
    return latest


def _find_unread(connection: Connection, pipeline: str, ids: set[str]) -> set[str]:
    """Return the given ids whose arrivals were settled for a reason to come again."""
    rows = _stage_ids(connection, ids)
    reasons = arrival_states.c.reason.in_([str(reason) for reason in COME_AGAIN])
    same = and_(arrival_states.c.arrival_id == rows.c.arrival_id, arrival_states.c.pipeline == pipeline)
    return set(connection.execute(select(rows.c.arrival_id).join(arrival_states, same).where(reasons)).scalars())


def _find_existing(connection: Connection, pipeline: str, ids: Iterable[str]) -> set[str]:
    """Return the given ids that arrivals of the pipeline have."""
    ids = list(ids)
    if not ids:
        return set()
    rows = _stage_ids(connection, ids)
    with forbid_plans(connection, *_BY_INDEX):
        return set(connection.execute(select(rows.c.arrival_id).where(_is_known(pipeline, rows))).scalars())


def _stage_ids(connection: Connection, ids: Iterable[str]) -> Table:
    frame = pl.DataFrame({"arrival_id": list(ids)}, schema={"arrival_id": pl.String}).unique()
    return stage(connection, frame, frame.schema, ["arrival_id"])


def record_contents(connection: Connection, pipeline: str, new: Table) -> None:
    """Record the newest content of each key that has had another one, and what the new arrivals supersede.

    An arrival under the same key that was quarantined or failed is superseded: what counts now is the new content.

    Parameters
    ----------
    connection, pipeline
        A transaction that writes to the pipeline's arrivals, and the pipeline.
    new
        The staged arrivals that are about to be inserted.
    """
    with forbid_plans(connection, *_BY_INDEX):
        before = record_newest(connection, pipeline, new)
        if count_rows(connection, before):
            _supersede(connection, pipeline, before)


def _find_before(connection: Connection, pipeline: str, new: Table) -> Table:
    """Stage the arrivals that are known under the keys of the new ones.

    PostgreSQL is told to look up each key. Until it has statistics of a new pipeline it takes all its arrivals for one,
    and would compare each with all new ones.
    """
    same = _is_under_key(arrivals, pipeline, new)
    known = select(arrivals.c.arrival_id, new.c.arrival_id).join_from(new, arrivals, same)
    if connection.dialect.name == "postgresql":
        found = select(arrivals.c.arrival_id).where(same).offset(0).lateral()  # with an offset it is no plain join
        known = select(found.c.arrival_id, new.c.arrival_id).join_from(new, found, true())
    return stage_query(connection, known, _BEFORE, ["arrival_id"])


def record_newest(connection: Connection, pipeline: str, new: Table) -> Table:
    """Write the newest content under each key that had another one; return the staged arrivals known under the keys."""
    before = _find_before(connection, pipeline, new)
    if not count_rows(connection, before):
        return before
    known = arrivals.alias("known")
    columns = list(_CONTENTS)
    contents = union_all(
        select(*(new.c[name] for name in columns)).where(exists().where(before.c.successor_id == new.c.arrival_id)),
        select(*(known.c[name] for name in columns))
        .join(before, before.c.arrival_id == known.c.arrival_id)
        .where(known.c.pipeline == pipeline),
    )
    every = contents.subquery()
    frame = fetch(connection, select(*every.c), _CONTENTS)
    newest = frame.sort("last_modified", "arrival_id").unique(["bucket", "key"], keep="last", maintain_order=True)
    rows = stage(connection, newest, _CONTENTS, ["key"])
    same = _is_under_key(newest_contents, pipeline, rows)
    values = {"arrival_id": rows.c.arrival_id, "last_modified": rows.c.last_modified}
    later = rows.c.last_modified >= newest_contents.c.last_modified
    connection.execute(update(newest_contents).where(same, later).values(values))
    insert_missing(connection, newest_contents, rows, ["key", "bucket", "pipeline"], pipeline=pipeline)
    return before


def _supersede(connection: Connection, pipeline: str, before: Table) -> None:
    """Name the new arrivals as successors of those that were not imported under the same keys."""
    stopped = and_(
        arrival_states.c.arrival_id == before.c.arrival_id,
        arrival_states.c.pipeline == pipeline,
        arrival_states.c.disposition.in_(STOPPED),
        arrival_states.c.superseded_by.is_(None),
    )
    links = select(before.c.arrival_id, func.max(before.c.successor_id)).join(arrival_states, stopped)
    rows = stage_query(connection, links.group_by(before.c.arrival_id), _LINKS, ["arrival_id"])
    is_one = and_(successors.c.arrival_id == rows.c.arrival_id, successors.c.pipeline == pipeline)
    connection.execute(update(successors).where(is_one).values(superseded_by=rows.c.superseded_by))
    insert_missing(connection, successors, rows, ["arrival_id", "pipeline"], pipeline=pipeline)
