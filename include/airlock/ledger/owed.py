"""Objects that must come again: given back, released from a run, or out of reach when they were to be read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, delete, exists, literal, null, or_, select, update

from airlock.ledger import clock
from airlock.ledger.frames import insert_missing, stage_query
from airlock.ledger.tables import arrivals, newest_contents, owed
from airlock.reasons import Reason
from airlock.records import schema

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select, Table

OUT_OF_REACH = Reason.ACCESS_DENIED, Reason.OBJECT_CHANGED, Reason.OBJECT_GONE  # S3 may give the object to a later run
# Arrivals settled without reading their content, or before another run has imported what they need. The next run may
# find the object, readable and under the same etag. A duplicate has the reason of the copy that was to be imported
# instead of it.
COME_AGAIN = (*OUT_OF_REACH, Reason.INSTANCE_CLAIMED, Reason.AWAITED_REFERENCE)
OBJECTS = schema(dict.fromkeys(("arrival_id", "bucket", "key", "reason"), pl.String))
NEVER = datetime(9000, 1, 1, tzinfo=UTC)  # the next attempt of an overdue object: only a person's run tries it
_AT_ONCE = 3  # attempts before the first pause
_LONGEST_PAUSE = timedelta(hours=24)


def pause_after(attempts: int) -> timedelta:
    """Return the pause before the next attempt: none after the first two, then 1, 2, 4 and up to 24 hours."""
    if attempts < _AT_ONCE:
        return timedelta()
    return min(timedelta(hours=2 ** min(attempts - _AT_ONCE, 5)), _LONGEST_PAUSE)


def count_attempt(now: datetime) -> dict[str, ColumnElement[Any]]:
    """Return the values of a row after another attempt; an overdue object stays overdue."""
    time = owed.c.next_attempt_at.type
    pauses = ((owed.c.attempts + 1 <= number, now + pause_after(number)) for number in range(_AT_ONCE + 6))
    moments = ((reached, literal(moment, time)) for reached, moment in pauses)
    overdue = owed.c.next_attempt_at >= NEVER, owed.c.next_attempt_at
    following = case(overdue, *moments, else_=literal(now + _LONGEST_PAUSE, time))
    return {"attempts": owed.c.attempts + 1, "next_attempt_at": following}


def _is_about(pipeline: str, rows: Table) -> ColumnElement[bool]:
    return and_(owed.c.pipeline == pipeline, owed.c.bucket == rows.c.bucket, owed.c.key == rows.c.key)


def owe(connection: Connection, pipeline: str, run_key: str, rows: Table) -> None:
    """Owe staged `OBJECTS`; for one owed before this is another attempt, unless another run has claimed it since.

    A content is not owed if a newer one was claimed under its key: the object is gone, and the newer one may be owed.
    """
    now = clock.now()
    rows = stage_query(connection, _select_newest(pipeline, rows), OBJECTS, ["key"])
    fresh = {"arrival_id": rows.c.arrival_id, "reason": rows.c.reason, "run_key": literal(run_key)}
    again = fresh | count_attempt(now) | {"taken_by": null()}
    own = or_(owed.c.taken_by.is_(None), owed.c.taken_by == run_key)
    connection.execute(update(owed).where(_is_about(pipeline, rows), own).values(again))
    times: dict[str, Any] = {"since": now, "next_attempt_at": now, "attempts": 0}
    insert_missing(connection, owed, rows, ["key", "bucket", "pipeline"], pipeline=pipeline, run_key=run_key, **times)


def _select_newest(pipeline: str, rows: Table) -> Select[Any]:
    """Return the query for the staged `OBJECTS` of which no newer content was claimed under their keys."""
    same_key = newest_contents.c.bucket == arrivals.c.bucket, newest_contents.c.key == arrivals.c.key
    newer = newest_contents.c.last_modified > arrivals.c.last_modified
    newest = and_(newest_contents.c.pipeline == pipeline, *same_key, newer)
    claimed = arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.pipeline == pipeline
    held = select(arrivals.c.arrival_id).join(newest_contents, newest).where(*claimed).exists()
    return select(*(rows.c[name] for name in OBJECTS)).where(~held)


def pay(connection: Connection, pipeline: str, rows: Table) -> None:
    """Forget that staged objects were owed."""
    connection.execute(delete(owed).where(exists(select(rows.c.key).where(_is_about(pipeline, rows)))))


def take_owed(connection: Connection, pipeline: str, run_key: str, rows: Table) -> None:
    """Record that a run has claimed staged objects that were owed."""
    taken = exists(select(rows.c.key).where(_is_about(pipeline, rows)))
    connection.execute(update(owed).where(taken).values(taken_by=run_key))


def return_owed(connection: Connection, pipeline: str, run_key: str) -> None:
    """Undo `take_owed` for all objects that a run has claimed and not settled."""
    taken = owed.c.pipeline == pipeline, owed.c.taken_by == run_key
    connection.execute(update(owed).where(*taken).values(taken_by=None))
