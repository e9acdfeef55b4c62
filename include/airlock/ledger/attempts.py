"""Owed objects over time: which of them are due, when the next attempt is, and which are overdue.

An object is owed until a run has read it. Each run that takes what is owed lists the source; an owed object that is
not there is tried again later. After `source.owed_days` an object is overdue: runs no longer try it by themselves, and
people are told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import and_, case, func, select, update

from airlock.ledger import clock
from airlock.ledger.arrivals import scope
from airlock.ledger.database import Store
from airlock.ledger.frames import fetch, fetch_frames
from airlock.ledger.journal import journaled
from airlock.ledger.owed import NEVER, count_attempt
from airlock.ledger.tables import owed
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import ColumnElement

_KEYS = pl.Schema({"key": pl.String})
OWED = schema(
    {
        "pipeline": pl.String,
        "reason": pl.String,
        "waiting": pl.Int64,
        "overdue": pl.Int64,
        "untold": pl.Int64,  # overdue objects that people have not been told of
        "since": TIMESTAMP,  # of the oldest
    }
)
FOUND_OWED = schema(
    dict.fromkeys(("pipeline", "bucket", "key", "reason"), pl.String),
    {"since": TIMESTAMP, "attempts": pl.Int64, "next_attempt_at": TIMESTAMP},
)
_IS_OPEN = owed.c.taken_by.is_(None)
_IS_OVERDUE = owed.c.next_attempt_at >= NEVER


def _is_due(pipeline: str, bucket: str, due: datetime) -> ColumnElement[bool]:
    return and_(owed.c.pipeline == pipeline, owed.c.bucket == bucket, _IS_OPEN, owed.c.next_attempt_at <= due)


class Attempts(Store):
    """The ledger's methods about attempts at owed objects."""

    def owed_keys(self, pipeline: str, bucket: str, due: datetime) -> Iterator[pl.DataFrame]:
        """Yield the ``key`` of each object of a bucket that is owed and whose next attempt is due, frame by frame."""
        with self._reading() as connection:
            yield from fetch_frames(connection, select(owed.c.key).where(_is_due(pipeline, bucket, due)), _KEYS)

    @journaled(skip_zero=True)  # the next run's attempt does the same
    def defer_owed(self, pipeline: str, bucket: str, due: datetime) -> int:
        """Count an attempt for each owed object that was due and that no run has claimed; return their number.

        Parameters
        ----------
        pipeline, bucket
            The source that was listed.
        due
            When the listing began.
        """
        with self._writing(scope(pipeline)) as connection:
            missed = update(owed).where(_is_due(pipeline, bucket, due))
            return connection.execute(missed.values(count_attempt(clock.now()))).rowcount

    @journaled(skip_zero=True)  # the next run's attempt does the same
    def end_owed(self, pipeline: str, before: datetime) -> int:
        """Make overdue what has been owed since *before* or longer; return the number of objects.

        Runs that nobody has started by hand do not try them any more.
        """
        old = owed.c.pipeline == pipeline, _IS_OPEN, owed.c.since <= before, ~_IS_OVERDUE
        with self._writing(scope(pipeline)) as connection:
            return connection.execute(update(owed).where(*old).values(next_attempt_at=NEVER)).rowcount

    def count_owed(self, pipeline: str | None = None) -> pl.DataFrame:
        """Count what is owed to a pipeline, or to all, as `OWED`; without objects that a run has claimed again."""
        untold = and_(_IS_OVERDUE, owed.c.asked_at.is_(None))
        counts = (func.sum(case((which, 1), else_=0)) for which in (~_IS_OVERDUE, _IS_OVERDUE, untold))
        groups = owed.c.pipeline, owed.c.reason
        statement = select(*groups, *counts, func.min(owed.c.since)).where(_IS_OPEN).group_by(*groups)
        if pipeline is not None:
            statement = statement.where(owed.c.pipeline == pipeline)
        with self._reading() as connection:
            return fetch(connection, statement, OWED).sort("pipeline", "reason")

    def find_owed(self, text: str) -> pl.DataFrame:
        """Return what is owed under a key, with or without ``s3://bucket/``, as `FOUND_OWED`.

        An overdue object has no next attempt.
        """
        bucket, _, key = text.removeprefix("s3://").partition("/") if text.startswith("s3://") else ("", "", text)
        statement = select(*(owed.c[name] for name in FOUND_OWED)).where(owed.c.key == key, _IS_OPEN)
        if bucket:
            statement = statement.where(owed.c.bucket == bucket)
        with self._reading() as connection:
            found = fetch(connection, statement, FOUND_OWED).sort("pipeline", "bucket")
        next_attempt = pl.col("next_attempt_at")
        return found.with_columns(pl.when(next_attempt < NEVER).then(next_attempt))

    @journaled()
    def note_told(self, pipeline: str) -> None:
        """Record that people have been told of all objects that are overdue."""
        untold = owed.c.pipeline == pipeline, _IS_OVERDUE, owed.c.asked_at.is_(None)
        with self._writing(scope(pipeline)) as connection:
            connection.execute(update(owed).where(*untold).values(asked_at=clock.now()))
