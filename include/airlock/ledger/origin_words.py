"""The words on files whose resources were parked: they follow what becomes of these resources in later runs.

A file that brought a parked resource has the word ``parked``. The run that takes the resource in has it as a line of an
arrival of its own, whose word is about up to a thousand resources of many files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, delete, exists, null, or_, update

from airlock.ledger import clock
from airlock.ledger.arrivals import scope
from airlock.ledger.database import Store
from airlock.ledger.frames import stage
from airlock.ledger.journal import journaled
from airlock.ledger.runs import need_run
from airlock.ledger.tables import arrivals, parked, resources, successors, words
from airlock.ledger.words import GIVEN, say, shape_dispositions, stage_news
from airlock.reasons import Reason
from airlock.records import DISPOSITIONS, Disposition, Stage, schema

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

# The gravest disposition of those resources of a file that a run has taken in, and the arrival as which it has.
ORIGINS = schema(DISPOSITIONS, {"taken_as": pl.String})
_STAGED = schema(GIVEN, {"taken_as": pl.String})
_NOTHING_DONE = [Disposition.DUPLICATE.value, Disposition.IGNORED.value]
_IS_WELL = [Disposition.RELEASED.value, *_NOTHING_DONE]


class OriginWords(Store):
    """The ledger's method about the words on files whose resources were parked."""

    @journaled()
    def settle_origins(self, pipeline: str, run_key: str, origins: pl.DataFrame) -> int:
        """Add words about the files of which a run has taken in parked resources; call it after `settle_parked`.

        A file stays parked while one of its resources waits. A file with a worse word keeps it, unless the run redrives
        what an earlier run has said it about, or has said it itself: a person may have let a hold go since.

        Parameters
        ----------
        pipeline, run_key
            The run.
        origins
            `ORIGINS`, a row per file.

        Returns
        -------
        int
            The number of words that differ from those before.
        """
        shaped = shape_dispositions(origins).with_columns(taken_as=origins["taken_as"])
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, shaped, _STAGED)
            waits = words.c.disposition == Disposition.PARKED.value
            own = words.c.said_by == run_key
            news = stage_news(connection, pipeline, rows, or_(waits, own, _is_redriven(rows, pipeline)))
            _keep_waiting(connection, pipeline, news)
            return say(connection, run_key, news, clock.now())


def _is_redriven(rows: Table, pipeline: str) -> ColumnElement[bool]:
    """Return the condition that a word is of the run whose arrival the staged one (``taken_as``) redrives."""
    before = arrivals.alias("before")
    return exists().where(
        successors.c.superseded_by == rows.c.taken_as,
        successors.c.pipeline == pipeline,
        before.c.arrival_id == successors.c.arrival_id,
        before.c.pipeline == pipeline,
        before.c.run_key == words.c.said_by,
    )


def _keep_waiting(connection: Connection, pipeline: str, news: Table) -> None:
    """Let files stay parked of which a resource waits, and be released of which another resource is."""
    waits = exists().where(parked.c.arrival_id == news.c.arrival_id, parked.c.pipeline == pipeline)
    still: dict[str, Any] = {
        "disposition": Disposition.PARKED.value,
        "stage": Stage.VALIDATE.value,
        "reason": str(Reason.WAITING_FOR_RESOURCE),
        "detail": null(),
    }
    is_well = news.c.disposition.in_(_IS_WELL)
    connection.execute(delete(news).where(is_well, waits, news.c.old_disposition == Disposition.PARKED.value))
    connection.execute(update(news).where(is_well, waits).values(still))
    brought = and_(resources.c.arrival_id == news.c.arrival_id, resources.c.pipeline == pipeline)
    released: dict[str, Any] = {"disposition": Disposition.RELEASED.value, "reason": null(), "detail": null()}
    connection.execute(
        update(news).where(news.c.disposition.in_(_NOTHING_DONE), exists().where(brought)).values(released)
    )
