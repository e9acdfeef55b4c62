"""Releases: the latest released contract of each subject, from the transaction that settles it until routes take it.

A row stays for good, so that an older revision that is settled again is recognized. A row is open until the task route
has matched it with the pipeline's rules, and as long as no route takes it: it then waits for other rules, or for a
later revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, exists, func, literal, or_, select, text, true, update

from airlock.ledger import clock
from airlock.ledger.database import Store
from airlock.ledger.frames import fetch, fetch_by_values, insert_for, select_schema, stage
from airlock.ledger.journal import journaled
from airlock.ledger.outbox import MESSAGES
from airlock.ledger.runs import need_pipeline, need_run
from airlock.ledger.tables import OPEN_RELEASE, outbox, releases
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, FromClause

OPEN = schema(MESSAGES, {"run_key": pl.String, "released_at": TIMESTAMP})  # releases to match
MATCHED = pl.Schema({"subject_key": pl.String, "revision": pl.Int64, "routes": pl.Int64})
_REVISIONS = pl.Schema({"subject_key": pl.String, "revision": pl.Int64})
_IS_OPEN = text(f"({OPEN_RELEASE})")  # literally the condition of the index
_REPLACED = ("revision", "content_digest", "payload_uri", "run_key", "released_at", "rules", "routes")


def _is_of(pipeline: str, datastore_id: str) -> ColumnElement[bool]:
    return and_(releases.c.pipeline == pipeline, releases.c.datastore_id == datastore_id)


def _same_revision(rows: FromClause) -> ColumnElement[bool]:
    return and_(releases.c.subject_key == rows.c.subject_key, releases.c.revision == rows.c.revision)


class Releases(Store):
    """The ledger's methods about releases."""

    @journaled()
    def record_releases(self, pipeline: str, run_key: str, datastore_id: str, messages: pl.DataFrame) -> int:
        """Record released contracts: the pipeline's next task route sends them, whatever becomes of the run.

        Call it in the transaction that settles, within `Ledger.at_once`. Only the latest revision of a subject is kept,
        since it holds all that was released before; a revision that is not later than the known one changes nothing.

        Parameters
        ----------
        pipeline, run_key, datastore_id
            The run that releases the subjects, and the data store that holds them.
        messages
            `MESSAGES`. The payloads are written before: a later run reads them.

        Returns
        -------
        int
            The number of recorded revisions.

        Raises
        ------
        LedgerError
            If the run is unknown.
        """
        newest = select_schema(messages, MESSAGES).sort("revision").unique("subject_key", keep="last")
        with self._writing() as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, newest, MESSAGES, ["subject_key"])
            now = clock.database_time(connection)
            given = {"pipeline": pipeline, "datastore_id": datastore_id, "run_key": run_key, "released_at": now}
            values: dict[str, Any] = {name: rows.c[name] for name in MESSAGES}
            values |= {name: literal(value, releases.c[name].type) for name, value in given.items()}
            # Without a WHERE SQLite would read ON CONFLICT as a join (its documentation of UPSERT).
            source = select(*values.values()).where(true()).order_by(rows.c.subject_key)
            statement = insert_for(connection, releases).from_select(list(values), source)
            recorded = statement.on_conflict_do_update(
                index_elements=["subject_key", "pipeline", "datastore_id"],
                set_={name: statement.excluded[name] for name in _REPLACED},
                where=statement.excluded.revision > releases.c.revision,
            )
            return connection.execute(recorded).rowcount

    def open_releases(self, pipeline: str, datastore_id: str, rules: str, limit: int) -> pl.DataFrame:
        """Return releases that were not matched with these rules and that no route takes by earlier ones, as `OPEN`.

        Parameters
        ----------
        pipeline, datastore_id
            The pipeline and the data store of the contracts.
        rules
            The digest of the current rules.
        limit
            The largest number of releases to return.
        """
        unmatched = or_(releases.c.routes.is_(None), and_(releases.c.routes == 0, releases.c.rules != rules))
        statement = (
            select(*(releases.c[name] for name in OPEN))
            .where(_is_of(pipeline, datastore_id), _IS_OPEN, unmatched)
            .order_by(releases.c.subject_key)
            .limit(limit)
        )
        with self._reading() as connection:
            return fetch(connection, statement, OPEN)

    @journaled()
    def mark_matched(self, pipeline: str, datastore_id: str, rules: str, matched: pl.DataFrame) -> None:
        """Record how many routes take releases by the rules with this digest; later revisions stay open.

        Parameters
        ----------
        pipeline, datastore_id, rules
            As for `open_releases`.
        matched
            `MATCHED`.
        """
        with self._writing() as connection:
            rows = stage(connection, matched, MATCHED, ["subject_key"])
            chosen = and_(_is_of(pipeline, datastore_id), _same_revision(rows))
            connection.execute(update(releases).where(chosen).values(rules=rules, routes=rows.c.routes))

    @journaled()
    def match_again(self, pipeline: str, run_key: str | None = None) -> int:
        """Open a pipeline's releases again, so that routes get them which did not exist when they were matched.

        A destination that has a contract does not get it again.

        Parameters
        ----------
        pipeline
            The pipeline.
        run_key
            Only what this run released; all without it.

        Returns
        -------
        int
            The number of open releases.

        Raises
        ------
        LedgerError
            If the pipeline, or the run, is unknown.
        """
        mine = releases.c.pipeline == pipeline
        with self._writing() as connection:
            need_pipeline(connection, pipeline)
            if run_key is not None:
                need_run(connection, run_key, pipeline)
                mine = and_(mine, releases.c.run_key == run_key)
            return connection.execute(update(releases).where(mine).values(rules=None, routes=None)).rowcount

    def unreleased_payloads(self, pipeline: str, datastore_id: str, messages: pl.DataFrame) -> pl.DataFrame:
        """Return those payloads that neither a release nor a message names: a settling that broke off left them.

        Parameters
        ----------
        pipeline, datastore_id
            The pipeline and the data store of the contracts.
        messages
            Columns ``subject_key``, ``revision`` and ``payload_uri``.
        """
        columns = pl.Schema({"subject_key": pl.String, "revision": pl.Int64, "payload_uri": pl.String})
        with self._reading() as connection:
            rows = stage(connection, messages, columns, ["subject_key"])
            same_uri = releases.c.payload_uri == rows.c.payload_uri
            released = exists().where(_is_of(pipeline, datastore_id), _same_revision(rows), same_uri)
            of_revision = and_(outbox.c.subject_key == rows.c.subject_key, outbox.c.revision == rows.c.revision)
            queued = exists().where(of_revision, outbox.c.payload_uri == rows.c.payload_uri)
            return fetch(connection, select(*(rows.c[name] for name in columns)).where(~released, ~queued), columns)

    def released_revisions(self, pipeline: str | None, datastore_id: str, subject_keys: pl.Series) -> pl.DataFrame:
        """Return the latest released revision of each subject, of a pipeline or all: ``subject_key``, ``revision``."""
        in_store = releases.c.datastore_id == datastore_id if pipeline is None else _is_of(pipeline, datastore_id)
        with self._reading() as connection:
            found = fetch_by_values(connection, releases, _REVISIONS, subject_keys, "subject_key", in_store)
        return found.group_by("subject_key").agg(pl.col("revision").max())

    def has_released(self, pipeline: str, run_key: str) -> bool:
        """Return whether the latest release of a subject is one of this run."""
        mine = and_(releases.c.run_key == run_key, releases.c.pipeline == pipeline)
        with self._reading() as connection:
            return bool(connection.execute(select(exists().where(mine))).scalar_one())

    def count_unrouted(self, pipeline: str) -> int:
        """Return the number of a pipeline's released subjects that no route takes."""
        unrouted = and_(releases.c.pipeline == pipeline, _IS_OPEN, releases.c.routes == 0)
        with self._reading() as connection:
            return connection.execute(select(func.count()).select_from(releases).where(unrouted)).scalar_one()
