"""Objects that must come again: given back, released from a run, or out of reach when they were to be read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, delete, exists, literal, select, update

from airlock.ledger.frames import insert_missing
from airlock.ledger.tables import owed
from airlock.reasons import Reason
from airlock.records import schema

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

# Arrivals settled without reading their content. The next run may find the object, readable and under the same etag. A
# duplicate has the reason of the copy that was to be imported instead of it.
COME_AGAIN = (Reason.ACCESS_DENIED, Reason.OBJECT_CHANGED, Reason.OBJECT_GONE, Reason.INSTANCE_CLAIMED)

GIVEN_BACK = "given_back"  # the reason of an object whose claim was released; no arrival has it
OBJECTS = schema(dict.fromkeys(("arrival_id", "bucket", "key", "reason"), pl.String))


def _is_about(pipeline: str, rows: Table) -> ColumnElement[bool]:
    return and_(owed.c.pipeline == pipeline, owed.c.bucket == rows.c.bucket, owed.c.key == rows.c.key)


def owe(connection: Connection, pipeline: str, run_key: str, rows: Table) -> None:
    """Owe staged objects (``arrival_id``, ``bucket``, ``key``, ``reason``); one owed before counts an attempt."""
    now = datetime.now(UTC)
    fresh = {"arrival_id": rows.c.arrival_id, "reason": rows.c.reason, "run_key": literal(run_key)}
    again = {"attempts": owed.c.attempts + 1, "next_attempt_at": literal(now, owed.c.since.type), "taken_by": None}
    connection.execute(update(owed).where(_is_about(pipeline, rows)).values(**fresh, **again))
    times: dict[str, Any] = {"since": now, "next_attempt_at": now, "attempts": 0}
    insert_missing(connection, owed, rows, ["key", "bucket", "pipeline"], pipeline=pipeline, run_key=run_key, **times)


def pay(connection: Connection, pipeline: str, rows: Table) -> None:
    """Forget that staged objects were owed."""
    connection.execute(delete(owed).where(exists(select(rows.c.key).where(_is_about(pipeline, rows)))))


def take_owed(connection: Connection, pipeline: str, run_key: str, rows: Table) -> None:
    """Record that a run has claimed staged objects that were owed."""
    taken = exists(select(rows.c.key).where(_is_about(pipeline, rows)))
    connection.execute(update(owed).where(taken).values(taken_by=run_key))
