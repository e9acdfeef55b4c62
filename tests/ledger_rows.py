"""What a ledger's tables hold, for tests; no stage asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from airlock.ledger.arrival_states import arrival_states as arrivals
from airlock.ledger.database import reading
from airlock.ledger.frames import fetch
from airlock.ledger.tables import instances
from airlock.records import DISPOSITIONS

if TYPE_CHECKING:
    import polars as pl
    from sqlalchemy import ColumnElement

    from airlock.ledger import Ledger


def count_arrivals(ledger: Ledger, pipeline: str) -> dict[str, int]:
    """Return how many arrivals of a pipeline have each disposition; ``claimed`` counts those without one."""
    disposition = func.coalesce(arrivals.c.disposition, "claimed")
    return _count(ledger, disposition, arrivals.c.pipeline == pipeline)


def count_current_arrivals(ledger: Ledger, pipeline: str) -> dict[str, int]:
    """Return the same without arrivals that a later one has replaced."""
    disposition = func.coalesce(arrivals.c.disposition, "claimed")
    return _count(ledger, disposition, (arrivals.c.pipeline == pipeline) & arrivals.c.superseded_by.is_(None))


def count_instances(ledger: Ledger, datastore_id: str) -> dict[str, int]:
    """Return how many instances a data store has in each state."""
    return _count(ledger, instances.c.state, instances.c.datastore_id == datastore_id)


def read_dispositions(ledger: Ledger, pipeline: str, run_key: str) -> pl.DataFrame:
    """Return the dispositions of a run's settled arrivals as `records.DISPOSITIONS`, sorted by key."""
    of_run = arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key, arrivals.c.settled_at.is_not(None)
    with reading(ledger._engine) as connection:
        found = fetch(connection, select(*(arrivals.c[name] for name in DISPOSITIONS)).where(*of_run), DISPOSITIONS)
    return found.sort("key", "arrival_id")


def _count(ledger: Ledger, column: ColumnElement[str], condition: ColumnElement[bool]) -> dict[str, int]:
    statement = select(column, func.count()).where(condition).group_by(column)
    with reading(ledger._engine) as connection:
        return {value: number for value, number in connection.execute(statement)}  # noqa: C416  # rows, not tuples
