"""Newer contents: the arrivals that were claimed under the same keys after others, before those were settled.

A run that claims a new content supersedes what was quarantined or failed under its key, see `generations`. An arrival
that is settled later than that is superseded when it is settled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, func, or_, select, update

from airlock.ledger.arrival_states import arrival_states
from airlock.ledger.database import Store
from airlock.ledger.frames import count_rows, insert_missing, stage_query, stage_values
from airlock.ledger.generations import STOPPED
from airlock.ledger.tables import arrivals, newest_contents, successors
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from sqlalchemy import Connection, FromClause, Select, Table

_IDS = pl.Schema({"arrival_id": pl.String})
_LINKS = pl.Schema({"arrival_id": pl.String, "superseded_by": pl.String})
_CLAIMS = schema({"arrival_id": pl.String}, {"claimed_at": TIMESTAMP})
_newer = arrival_states.alias("newer")
_HAS_STUDY = func.coalesce(_newer.c.study_instance_uid, "") != ""


class NewerContents(Store):
    """The ledger's methods about newer contents under the keys of arrivals."""

    def find_replaced(self, pipeline: str, ids: pl.Series) -> pl.Series:
        """Return those of these arrivals whose keys have a newer content that a run has settled, sorted.

        A newer content that cannot be read either, and of which no study is known, replaces nothing: nobody can say
        that the older one is not missing any more.
        """
        with self._reading() as connection:
            rows = stage_values(connection, ids, "arrival_id")
            found = connection.scalars(_select_newer(pipeline, rows).where(_newer.c.settled_at.is_not(None)))
            return pl.Series(sorted(set(found)), dtype=pl.String)


def supersede_replaced(connection: Connection, pipeline: str, news: Table) -> None:
    """Name the newest content under its key as the successor of each staged quarantined or failed arrival.

    A staged arrival without a known study stops being the successor of arrivals that were settled after its claim: its
    run may have asked for the studies under its key before these arrivals had one.

    Parameters
    ----------
    connection, pipeline
        A transaction that writes to the pipeline's arrivals, and the pipeline.
    news
        Staged words, with ``arrival_id`` and ``disposition``.
    """
    stopped = stage_query(
        connection, select(news.c.arrival_id).where(news.c.disposition.in_(STOPPED)), _IDS, ["arrival_id"]
    )
    _restore_named(connection, pipeline, stopped)
    rows = stage_query(connection, _select_newer(pipeline, stopped), _LINKS, ["arrival_id"])
    if not count_rows(connection, rows):
        return
    is_one = and_(successors.c.arrival_id == rows.c.arrival_id, successors.c.pipeline == pipeline)
    values = {"superseded_by": rows.c.superseded_by}
    connection.execute(update(successors).where(is_one, successors.c.superseded_by.is_(None)).values(values))
    insert_missing(connection, successors, rows, ["arrival_id", "pipeline"], pipeline=pipeline)


def _restore_named(connection: Connection, pipeline: str, stopped: Table) -> None:
    """Let arrivals count again that name a study, and whose staged successor under their key names none."""
    link = and_(successors.c.superseded_by == stopped.c.arrival_id, successors.c.pipeline == pipeline)
    links = select(successors.c.arrival_id, successors.c.superseded_by).join_from(stopped, successors, link)
    rows = stage_query(connection, links, _LINKS, ["superseded_by"])
    if not count_rows(connection, rows):
        return
    # PostgreSQL would read all unreleased words for one query about both, or for a plain condition on the disposition.
    silent = and_(_newer.c.arrival_id == rows.c.superseded_by, _newer.c.pipeline == pipeline, ~_HAS_STUDY)
    claims = select(rows.c.arrival_id, _newer.c.claimed_at).join_from(rows, _newer, silent)
    rows = stage_query(connection, claims, _CLAIMS, ["arrival_id"])
    own = and_(arrival_states.c.arrival_id == rows.c.arrival_id, arrival_states.c.pipeline == pipeline)
    is_stopped = func.coalesce(arrival_states.c.disposition, "").in_(STOPPED)
    is_later = arrival_states.c.settled_at >= rows.c.claimed_at
    named = select(rows.c.arrival_id).join_from(rows, arrival_states, own)
    named = named.where(is_stopped, is_later, arrival_states.c.study_key.is_not(None))
    rows = stage_query(connection, named, _IDS, ["arrival_id"])
    restored = and_(successors.c.arrival_id == rows.c.arrival_id, successors.c.pipeline == pipeline)
    connection.execute(update(successors).where(restored).values(superseded_by=None))


def _select_newer(pipeline: str, rows: FromClause) -> Select[Any]:
    """Return the query for the staged arrivals with a newer content under their keys, and for that content's arrival.

    A content that a run has given back is left out, and so is a quarantined one of which no study is known.
    """
    own = and_(arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.pipeline == pipeline)
    newest = and_(
        newest_contents.c.pipeline == arrivals.c.pipeline,
        newest_contents.c.bucket == arrivals.c.bucket,
        newest_contents.c.key == arrivals.c.key,
        newest_contents.c.last_modified > arrivals.c.last_modified,
    )
    speaks = or_(_newer.c.settled_at.is_(None), _newer.c.disposition.not_in(STOPPED), _HAS_STUDY)
    known = and_(_newer.c.arrival_id == newest_contents.c.arrival_id, _newer.c.pipeline == pipeline, speaks)
    columns = rows.c.arrival_id, _newer.c.arrival_id
    return select(*columns).join_from(rows, arrivals, own).join(newest_contents, newest).join(_newer, known)
