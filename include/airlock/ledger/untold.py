"""What an edge must be told: each word on an arrival of a pipeline whose source an edge fills.

The transaction that adds a word also adds a row about its arrival. The task route of any run of the pipeline reads the
rows, sends what the ledger says then, and deletes them. So the edge is told at least once, and after the latest word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, delete, exists, func, insert, literal, null, select, union_all

from airlock.ledger import clock
from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.columns import InstanceState
from airlock.ledger.database import Store
from airlock.ledger.edge_tables import edges, untold
from airlock.ledger.frames import fetch, insert_for, stage
from airlock.ledger.journal import journaled
from airlock.ledger.owed import COME_AGAIN
from airlock.ledger.runs import need_pipeline, need_run
from airlock.ledger.tables import arrivals, instances, verdicts, words
from airlock.reasons import Reason
from airlock.records import Disposition, Verdict, schema

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, FromClause

RELEASED, IMPORTED, FAILED = "released", "imported", "failed"  # what an object is for the edge
WAITING = "waiting"  # a later run takes the object again by itself, so nothing is told yet
# A row of `untold` with what its arrival is now. Words on one object are in the order of these four numbers; the last
# two are those of the copy that was imported, for a duplicate.
_ORDER = ("generation", "number", "copy_generation", "copy_number")
UNTOLD = schema(
    {"id": pl.Int64, "bucket": pl.String, "key": pl.String},
    dict.fromkeys(("state", "disposition", "reason"), pl.String),
    dict.fromkeys(_ORDER, pl.Int64),
)
_IDS = pl.Schema({"id": pl.Int64})
# The job named an image set for the instance, but nothing proves that it exists and has what the edge received.
_UNPROVEN = [
    str(one)
    for one in (
        Reason.PRIMARY_UNKNOWN,
        Reason.READ_BACK_MISMATCH,
        Reason.JOB_COUNTS_DISAGREE,
        Reason.VERSION_ABOVE_ONE,
    )
]


@dataclass(frozen=True)
class Waiting:
    """The objects of a pipeline about which its edge must be told."""

    objects: int
    since: datetime | None  # the oldest


def note_news(connection: Connection, news: FromClause, now: datetime) -> None:
    """Record that edges must be told about staged words, and about copies in the same studies.

    What a duplicate is for the edge depends on the copy that was imported, whose word may have changed.

    Parameters
    ----------
    connection
        The transaction that adds the words.
    news
        The new words: ``arrival_id``, ``pipeline``, ``study_key``.
    now
        When they are added.
    """
    if not connection.scalar(select(exists(edges.select()))):
        return
    told = select(news.c.pipeline, news.c.arrival_id).join_from(news, edges, edges.c.pipeline == news.c.pipeline)
    studies = select(news.c.study_key).where(news.c.study_key.is_not(None)).distinct().subquery()
    of_edges = edges.c.pipeline == verdicts.c.pipeline
    copies = select(verdicts.c.pipeline, verdicts.c.arrival_id).join_from(
        studies, verdicts, verdicts.c.study_key == studies.c.study_key
    )
    copies = copies.join(edges, of_edges).where(verdicts.c.verdict == Verdict.DUPLICATE.value)
    _insert(connection, union_all(told, copies).subquery(), now)


def _insert(connection: Connection, rows: FromClause, now: datetime) -> int:
    """Add a row per arrival, of those that have a word."""
    settled = exists().where(words.c.arrival_id == rows.c.arrival_id, words.c.pipeline == rows.c.pipeline)
    since = literal(now, untold.c.since.type)
    found = select(rows.c.pipeline, rows.c.arrival_id, since).where(settled).distinct()
    return connection.execute(insert(untold).from_select(["pipeline", "arrival_id", "since"], found)).rowcount


def _is_stored() -> ColumnElement[bool]:
    return instances.c.state.in_([InstanceState.IMPORTED.value, InstanceState.NON_PRIMARY.value])


def _is_proven(held: FromClause) -> ColumnElement[bool]:
    return func.coalesce(held.c.reason, "").not_in(_UNPROVEN)


def _describe_state(owner: FromClause) -> ColumnElement[str]:
    """Return what an object is for the edge, from its state, its instance and the arrival that owns the instance.

    The bytes of the owner must be those of the object: its own, of any generation, or an equal copy's.
    """
    own = and_(owner.c.key == states.c.key, owner.c.bucket == states.c.bucket, owner.c.etag == states.c.etag)
    held = and_(states.c.disposition == Disposition.HELD.value, own, _is_proven(states))
    same = Reason.DUPLICATE_SAME_CONTENT.value
    copied = and_(states.c.disposition == Disposition.DUPLICATE.value, states.c.reason == same)
    return case(
        (states.c.disposition == Disposition.RELEASED.value, RELEASED),
        (states.c.reason.in_([str(one) for one in COME_AGAIN]), WAITING),
        (and_(copied, _is_stored(), owner.c.disposition == Disposition.RELEASED.value), RELEASED),
        (and_(copied, _is_stored(), _is_proven(owner)), IMPORTED),
        (and_(held, _is_stored()), IMPORTED),
        else_=FAILED,
    )


class Untold(Store):
    """The ledger's methods about what an edge must be told."""

    @journaled()
    def note_edge(self, pipeline: str, queue_url: str | None) -> None:
        """Record the queue of a pipeline's edge: from now on each word on the pipeline's arrivals is told.

        Parameters
        ----------
        pipeline
            The pipeline.
        queue_url
            The queue; None for a pipeline without an edge, which is told nothing any more.
        """
        with self._writing() as connection:
            if queue_url is None:
                for table in (edges, untold):
                    connection.execute(delete(table).where(table.c.pipeline == pipeline))
                return
            added = insert_for(connection, edges).values(pipeline=pipeline, queue_url=queue_url)
            again = added.on_conflict_do_update(index_elements=["pipeline"], set_={"queue_url": queue_url})
            connection.execute(again)

    def find_edge(self, pipeline: str) -> str | None:
        """Return the queue of a pipeline's edge; None if the pipeline has none."""
        with self._reading() as connection:
            return connection.scalar(select(edges.c.queue_url).where(edges.c.pipeline == pipeline))

    def untold(self, pipeline: str, datastore_id: str, limit: int) -> pl.DataFrame:
        """Return the first rows of what a pipeline's edge must be told, as `UNTOLD`, with what the objects are now.

        Parameters
        ----------
        pipeline, datastore_id
            The pipeline and its HealthImaging data store.
        limit
            The largest number of rows.
        """
        first = select(untold.c.id, untold.c.arrival_id).where(untold.c.pipeline == pipeline)
        first_rows = first.order_by(untold.c.id).limit(limit).subquery()
        owner = states.alias("owner")
        of_arrival = and_(states.c.arrival_id == first_rows.c.arrival_id, states.c.pipeline == pipeline)
        stored = and_(instances.c.SOPInstanceUID == states.c.sop_instance_uid, instances.c.datastore_id == datastore_id)
        owns = and_(owner.c.arrival_id == instances.c.arrival_id, owner.c.pipeline == instances.c.pipeline)
        is_copy = states.c.disposition == Disposition.DUPLICATE.value
        values: dict[str, Any] = {"id": first_rows.c.id, "state": _describe_state(owner)}
        values |= {name: states.c[name] for name in ("bucket", "key", "disposition", "reason", "generation", "number")}
        values |= {f"copy_{name}": case((is_copy, owner.c[name]), else_=null()) for name in ("generation", "number")}
        statement = select(*(values[name].label(name) for name in UNTOLD)).join_from(first_rows, states, of_arrival)
        statement = statement.outerjoin(instances, stored).outerjoin(owner, owns).order_by(first_rows.c.id)
        with self._reading() as connection:
            return fetch(connection, statement, UNTOLD)

    def mark_told(self, ids: pl.Series) -> int:
        """Delete rows whose messages were sent; return their number.

        It is not journaled: after a rebuild the edge is told everything again, which changes nothing there.
        """
        with self._writing() as connection:
            rows = stage(connection, ids.to_frame("id"), _IDS, ["id"])
            return connection.execute(delete(untold).where(untold.c.id.in_(select(rows.c.id)))).rowcount

    def tell_again(self, pipeline: str, run_key: str | None = None) -> int:
        """Have the edge told again about a pipeline's settled arrivals, or about those of one run; return their number.

        Raises
        ------
        LedgerError
            If the pipeline, or the run, is unknown.
        """
        mine = arrivals.c.pipeline == pipeline
        with self._writing() as connection:
            need_pipeline(connection, pipeline)
            if run_key is not None:
                need_run(connection, run_key, pipeline)
                mine = and_(mine, arrivals.c.run_key == run_key)
            chosen = select(arrivals.c.pipeline, arrivals.c.arrival_id).where(mine).subquery()
            return _insert(connection, chosen, clock.now())

    def count_untold(self, pipeline: str) -> Waiting:
        """Count what a pipeline's edge has not been told yet."""
        facts = func.count(untold.c.arrival_id.distinct()), func.min(untold.c.since, type_=untold.c.since.type)
        with self._reading() as connection:
            return Waiting(*connection.execute(select(*facts).where(untold.c.pipeline == pipeline)).one())
