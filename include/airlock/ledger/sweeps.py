"""What a sweep asks the ledger: which listed objects are not arrivals, and which arrivals it knows.

An object that a sweep takes in becomes owed. The next run without prefix or window then claims it by its key, whatever
its date, so that there is one way by which objects come again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, exists, func, insert, literal, select

from airlock.ledger.arrival_states import arrival_states
from airlock.ledger.arrivals import LISTED, scope, stage_listing, stage_unclaimed
from airlock.ledger.columns import ComparisonKind, DecisionKind
from airlock.ledger.comparison_tables import comparisons
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import decisions
from airlock.ledger.frames import fetch, fetch_frames, stage, stage_query, stage_values
from airlock.ledger.journal import journaled
from airlock.ledger.owed import NEVER, OBJECTS, owe, pay
from airlock.ledger.tables import arrivals, owed, runs
from airlock.reasons import FOUND_BY_SWEEP
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import ColumnElement, Connection, Table

KEYS = schema(dict.fromkeys(("arrival_id", "key"), pl.String), {"claimed_at": TIMESTAMP})
VANISHED = schema(dict.fromkeys(("arrival_id", "key", "study_key", "disposition"), pl.String))
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_PIECES = 64  # of the arrivals on PostgreSQL, each of which is copied to the local disk before it is read


@dataclass(frozen=True)
class Strays:
    """Objects of a listing that are not arrivals."""

    objects: pl.DataFrame  # `arrivals.LISTED`
    owed: int  # further ones that are owed, so that a run takes them


SCOPE = "sweeps"


@dataclass(frozen=True)
class SweepAnswer:
    """What a person decided about the objects that a sweep named."""

    sweep: str  # its name in the workspace
    named: int
    take_in: bool
    decided_by: str
    why: str
    decided_at: datetime


class Sweeps(Store):
    """The ledger's methods about sweeps."""

    def find_strays(self, pipeline: str, listing: pl.DataFrame) -> Strays:
        """Find the objects of a listing, `arrivals.LISTED`, that are not arrivals of a pipeline.

        A content that came back under its key is an object of its own until a run has claimed it.
        """
        with self._reading() as connection:
            new = _stage_new(connection, pipeline, listing)
            is_owed = _is_owed(pipeline, new)
            columns = (new.c[name] for name in LISTED)
            objects = fetch(connection, select(*columns).where(~is_owed).order_by(new.c.arrival_id), LISTED)
            number = connection.execute(select(func.count()).select_from(new).where(is_owed)).scalar_one()
        return Strays(objects, int(number))

    @journaled()
    def owe_strays(self, pipeline: str, sweep: str, listing: pl.DataFrame) -> int:
        """Make owed the objects of a listing, `arrivals.LISTED`, that are still not arrivals; return their number.

        *sweep* is the name of the sweep that found them.
        """
        with self._writing(scope(pipeline)) as connection:
            new = _stage_new(connection, pipeline, listing)
            columns = new.c.arrival_id, new.c.bucket, new.c.key, literal(FOUND_BY_SWEEP)
            rows = stage_query(connection, select(*columns).where(~_is_owed(pipeline, new)), OBJECTS, ["key"])
            pay(connection, pipeline, rows)  # those that runs have given up begin anew
            owe(connection, pipeline, sweep, rows)
            return int(connection.execute(select(func.count()).select_from(rows)).scalar_one())

    def arrival_keys(self, pipeline: str, bucket: str, before: datetime) -> Iterator[pl.DataFrame]:
        """Yield what a pipeline's runs had claimed before a time, as `KEYS`, frame by frame in no order."""
        of_bucket = arrivals.c.pipeline == pipeline, arrivals.c.bucket == bucket, arrivals.c.claimed_at < before
        columns = [arrivals.c[name] for name in KEYS]
        for piece in _pieces_of_ids(_PIECES if self._engine.dialect.name == "postgresql" else 1):
            with self._reading() as connection:
                yield from fetch_frames(connection, select(*columns).where(*of_bucket, piece), KEYS)

    def count_arrivals(self, pipeline: str) -> int:
        """Return how many arrivals a pipeline's runs have claimed."""
        with self._reading() as connection:
            counted = select(func.count()).select_from(arrivals).where(arrivals.c.pipeline == pipeline)
            return int(connection.execute(counted).scalar_one())

    def describe_vanished(self, pipeline: str, ids: pl.Series) -> pl.DataFrame:
        """Return what the ledger knows of these arrivals, as `VANISHED`; an open one has no disposition."""
        with self._reading() as connection:
            rows = stage(
                connection, ids.alias("arrival_id").to_frame(), pl.Schema({"arrival_id": pl.String}), ["arrival_id"]
            )
            same = and_(arrival_states.c.arrival_id == rows.c.arrival_id, arrival_states.c.pipeline == pipeline)
            columns = (arrival_states.c[name] for name in VANISHED)
            return fetch(connection, select(*columns).join_from(rows, arrival_states, same), VANISHED).sort("key")

    def count_unknown(self, pipeline: str, ids: Collection[str]) -> int:
        """Return how many of these ids no arrival of a pipeline has."""
        with self._reading() as connection:
            rows = stage_values(connection, pl.Series(list(ids), dtype=pl.String), "arrival_id")
            known = exists().where(arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.pipeline == pipeline)
            return int(connection.execute(select(func.count()).select_from(rows).where(~known)).scalar_one())

    def run_keys(self, pipeline: str) -> set[str]:
        """Return the keys of all runs of a pipeline."""
        with self._reading() as connection:
            return set(connection.scalars(select(runs.c.run_key).where(runs.c.pipeline == pipeline)))

    def sweep_times(self, pipeline: str) -> dict[int, datetime]:
        """Return when each sweep of a pipeline began, by its number."""
        of_pipeline = comparisons.c.pipeline == pipeline, comparisons.c.kind == ComparisonKind.SWEEP.value
        with self._reading() as connection:
            rows = connection.execute(select(comparisons.c.id, comparisons.c.began_at).where(*of_pipeline))
            return {row.id: row.began_at for row in rows}

    @journaled()
    def answer_sweep(self, pipeline: str, answer: SweepAnswer) -> None:
        """Add an answer about the objects that a sweep named to the decision log."""
        values: dict[str, Any] = {
            "kind": DecisionKind.SWEEP.value,
            "pipeline": pipeline,
            "subject": answer.sweep,
            "seen": str(answer.named),
            "answer": "take_in" if answer.take_in else "leave",
            "decided_by": answer.decided_by,
            "why": answer.why,
            "decided_at": answer.decided_at,
            "details": json.dumps({"named": answer.named}),
        }
        with self._writing(SCOPE) as connection:
            connection.execute(insert(decisions).values(values))


def _stage_new(connection: Connection, pipeline: str, listing: pl.DataFrame) -> Table:
    """Stage the listed objects that are not arrivals; owed ones are not counted as new generations."""
    staged = stage_listing(connection, pipeline, listing, _LONG_AGO)
    return stage_unclaimed(connection, pipeline, staged, listing)


def _is_owed(pipeline: str, rows: Table) -> ColumnElement[bool]:
    """Return the condition that a later run will take a staged object: none has it, and none has given it up."""
    about = owed.c.pipeline == pipeline, owed.c.bucket == rows.c.bucket, owed.c.key == rows.c.key
    return exists().where(*about, owed.c.taken_by.is_(None), owed.c.next_attempt_at < NEVER)


def _pieces_of_ids(number: int) -> Iterator[ColumnElement[bool]]:
    """Yield conditions that cut the arrivals by their ids, which are hex digits, into pieces of about equal size."""
    bounds = [f"{piece * 256 // number:02x}" for piece in range(1, number)]
    for low, high in pairwise(["", *bounds, None]):
        above = arrivals.c.arrival_id >= low
        yield above if high is None else and_(above, arrivals.c.arrival_id < high)
