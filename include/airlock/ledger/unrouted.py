"""Released contracts that no route took; they wait for a rule that takes them, or for a later revision."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, exists, func, select, update

from airlock.ledger.database import Store
from airlock.ledger.frames import fetch, insert_missing, stage
from airlock.ledger.outbox import MESSAGES, scope
from airlock.ledger.runs import need_run
from airlock.ledger.tables import outbox, unrouted

if TYPE_CHECKING:
    import polars as pl
    from sqlalchemy import ColumnElement, FromClause


def _is_of(pipeline: str, datastore_id: str) -> ColumnElement[bool]:
    return and_(unrouted.c.pipeline == pipeline, unrouted.c.datastore_id == datastore_id)


def _same_subject(rows: FromClause) -> ColumnElement[bool]:
    return unrouted.c.subject_key == rows.c.subject_key


class Unrouted(Store):
    """The ledger's methods about contracts that no route took."""

    def record_unrouted(
        self, pipeline: str, run_key: str, datastore_id: str, rules: str, messages: pl.DataFrame
    ) -> None:
        """Record contracts that no route takes.

        Only the latest revision of a subject is recorded, since it holds all that was released before. A contract is
        not recorded if this or a later revision of its subject has been routed.

        Parameters
        ----------
        pipeline, run_key, datastore_id
            The run that released the subjects, and the data store that holds them.
        rules
            The digest of the rules that take none of them.
        messages
            As for `Outbox.enqueue`.

        Raises
        ------
        LedgerError
            If the run is unknown.
        """
        newest = messages.sort("revision").unique("subject_key", keep="last", maintain_order=True)
        constants = {"pipeline": pipeline, "datastore_id": datastore_id, "run_key": run_key, "rules": rules}
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, newest, MESSAGES, ["subject_key"])
            routed = exists().where(
                outbox.c.pipeline == pipeline,
                outbox.c.subject_key == rows.c.subject_key,
                outbox.c.revision >= rows.c.revision,
                outbox.c.destination.contains(datastore_id, autoescape=True),
            )
            connection.execute(delete(rows).where(routed))
            older = exists().where(_same_subject(rows), unrouted.c.revision < rows.c.revision)
            connection.execute(delete(unrouted).where(_is_of(pipeline, datastore_id), older))
            key = ["subject_key", "pipeline", "datastore_id"]
            insert_missing(connection, unrouted, rows, key, released_at=datetime.now(UTC), **constants)

    def unrouted(self, pipeline: str, datastore_id: str, except_rules: str, limit: int) -> pl.DataFrame:
        """Return contracts that no route took and that were not yet matched against the current rules.

        Parameters
        ----------
        pipeline, datastore_id
            The pipeline and the data store of the contracts.
        except_rules
            The digest of the current rules.
        limit
            The largest number of contracts to return.

        Returns
        -------
        polars.DataFrame
            Rows as for `Outbox.enqueue`.
        """
        statement = (
            select(*(unrouted.c[name] for name in MESSAGES))
            .where(_is_of(pipeline, datastore_id), unrouted.c.rules != except_rules)
            .order_by(unrouted.c.subject_key)
            .limit(limit)
        )
        with self._reading() as connection:
            return fetch(connection, statement, MESSAGES)

    def mark_unrouted(self, pipeline: str, datastore_id: str, rules: str, messages: pl.DataFrame) -> None:
        """Record that the rules with this digest take none of these contracts."""
        with self._writing(scope(pipeline)) as connection:
            rows = stage(connection, messages, MESSAGES, ["subject_key"])
            asked = and_(_same_subject(rows), unrouted.c.revision == rows.c.revision)
            looked_at = update(unrouted).where(_is_of(pipeline, datastore_id), exists().where(asked))
            connection.execute(looked_at.values(rules=rules))

    def drop_unrouted(self, pipeline: str, datastore_id: str, messages: pl.DataFrame) -> None:
        """Forget contracts that are in the outbox now, and earlier revisions of them."""
        with self._writing(scope(pipeline)) as connection:
            rows = stage(connection, messages, MESSAGES, ["subject_key"])
            routed = exists().where(_same_subject(rows), unrouted.c.revision <= rows.c.revision)
            connection.execute(delete(unrouted).where(_is_of(pipeline, datastore_id), routed))

    def count_unrouted(self, pipeline: str) -> int:
        """Return the number of a pipeline's released subjects that no route took."""
        with self._reading() as connection:
            counted = select(func.count()).select_from(unrouted).where(unrouted.c.pipeline == pipeline)
            return connection.execute(counted).scalar_one()
