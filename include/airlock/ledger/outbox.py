"""The outbox: messages about released contracts, queued or sent, per destination.

A content is queued once per destination and subject, whichever run queues it. The *destination* is the address itself,
so that two pipelines with one address do not send it the same content twice.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from airlock.ledger.columns import MessageState
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import insert_missing, select_schema, stage
from airlock.ledger.runs import need_pipeline, need_run
from airlock.ledger.tables import outbox

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, FromClause, Row

MESSAGES = pl.Schema(
    {"subject_key": pl.String, "revision": pl.Int64, "content_digest": pl.String, "payload_uri": pl.String}
)
LEASE = timedelta(minutes=10)
_ERROR_LENGTH = 2_000


@dataclass(frozen=True)
class OutboxMessage:
    """One message that waits to be sent."""

    id: int
    pipeline: str
    destination: str
    subject_key: str
    run_key: str
    revision: int
    content_digest: str
    payload_uri: str
    attempts: int  # since it was queued
    queued_at: datetime


def scope(pipeline: str) -> str:
    """Return the lock scope of writers to a pipeline's outbox; see `database.writing`."""
    return f"outbox of {pipeline}"


def _read_message(row: Row[Any]) -> OutboxMessage:
    return OutboxMessage(**{field.name: getattr(row, field.name) for field in fields(OutboxMessage)})


def _is_pending(pipeline: str, destination: str) -> ColumnElement[bool]:
    mine = and_(outbox.c.pipeline == pipeline, outbox.c.destination == destination)
    return and_(mine, outbox.c.state == MessageState.PENDING)


def _is_sendable(table: FromClause, now: datetime, owner: str | None, since: datetime) -> ColumnElement[bool]:
    """Return the condition that a sender who began at *since* may send a message now."""
    lease = or_(table.c.leased_until.is_(None), table.c.leased_until <= now, table.c.leased_by == owner)
    return and_(table.c.next_attempt_at <= since, lease)


class Outbox(Store):
    """The ledger's methods about the outbox."""

    def enqueue(self, pipeline: str, run_key: str, destination: str, messages: pl.DataFrame) -> int:
        """Queue messages, except those whose content was queued before for the same destination and subject.

        Parameters
        ----------
        pipeline, run_key
            The run that released the subjects.
        destination
            The address.
        messages
            Columns ``subject_key``, ``revision``, ``content_digest``, ``payload_uri``.

        Returns
        -------
        int
            The number of queued messages.

        Raises
        ------
        LedgerError
            If another run has queued other content under the same revision, or the run is unknown.
        """
        frame = select_schema(messages, MESSAGES).unique(["subject_key", "content_digest"], keep="first")
        now = datetime.now(UTC)
        constants: dict[str, Any] = {"pipeline": pipeline, "run_key": run_key, "destination": destination}
        constants |= {"state": MessageState.PENDING.value, "attempts": 0, "next_attempt_at": now}
        constants |= {"created_at": now, "queued_at": now}
        # Two pipelines may share a destination, so its name is locked as well.
        with self._writing(scope(pipeline), f"destination {destination}") as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, frame, MESSAGES, ["subject_key", "content_digest"])
            key, order = ["subject_key", "content_digest", "destination"], ["subject_key", "revision"]
            try:
                return insert_missing(connection, outbox, rows, key, order, **constants)
            except IntegrityError:
                raise LedgerError(
                    f"another run has queued other content for {destination!r} under the same revision: "
                    f"clear the route task"
                ) from None

    def lease_due(
        self,
        pipeline: str,
        destination: str,
        now: datetime,
        limit: int,
        owner: str | None = None,
        *,
        since: datetime | None = None,
    ) -> list[OutboxMessage]:
        """Lease and return the messages to send now, in order; a subject's later revision waits for its earlier.

        Parameters
        ----------
        pipeline, destination
            The pipeline that queued the messages, and their destination.
        now
            The current time, aware.
        limit
            The largest number of messages to return.
        owner
            The sender's run key. For ten minutes (`LEASE`) after this call or the last `renew_leases` no other sender
            gets these messages, unless they fail before; the owner gets them again, so that its retry continues at
            once. With None the messages are not leased.
        since
            The time at which the sender began: a message that became due later has failed since, and waits for the
            next attempt.
        """
        earlier = outbox.alias("earlier")
        blocked = (
            select(earlier.c.id)
            .where(
                earlier.c.destination == outbox.c.destination,
                earlier.c.subject_key == outbox.c.subject_key,
                earlier.c.id < outbox.c.id,
                earlier.c.state == MessageState.PENDING,
                ~_is_sendable(earlier, now, owner, since or now),
            )
            .exists()
        )
        pending = _is_pending(pipeline, destination)
        free = _is_sendable(outbox, now, owner, since or now)
        statement = select(outbox).where(pending, free, ~blocked).order_by(outbox.c.id).limit(limit)
        with self._writing(scope(pipeline)) as connection:
            found = [_read_message(row) for row in connection.execute(statement)]
            if owner is not None and found:
                self._lease(connection, found, owner, now + LEASE)
        return found

    @staticmethod
    def _lease(connection: Connection, messages: list[OutboxMessage], owner: str, until: datetime) -> None:
        ids = pl.DataFrame({"id": [message.id for message in messages]})
        rows = stage(connection, ids, pl.Schema({"id": pl.Int64}), ["id"])
        lease = {"leased_by": owner, "leased_until": until}
        connection.execute(update(outbox).where(outbox.c.id == rows.c.id).values(lease))

    def mark_sent(self, message_id: int, now: datetime) -> None:
        """Record that a message has arrived; a second call changes nothing.

        Raises
        ------
        LedgerError
            If there is no such message.
        """
        self._mark(message_id, {"state": MessageState.SENT.value, "sent_at": now, "last_error": None})

    def mark_failed(self, message_id: int, error: str, next_attempt_at: datetime) -> None:
        """Record that sending a message failed, and the time of the next attempt; a sent message stays sent.

        Raises
        ------
        LedgerError
            If there is no such message.
        """
        self._mark(message_id, {"last_error": error[:_ERROR_LENGTH], "next_attempt_at": next_attempt_at})

    def mark_announced(self, pipeline: str, destination: str, owner: str, now: datetime) -> list[str]:
        """Mark all messages that wait for a destination as sent by a run, and return those of its earlier tries too.

        For Airflow assets: their events take effect only when the run's task succeeds, so a retry must emit all again.

        Returns
        -------
        list
            The subject keys of all messages that this owner has announced, sorted, each once.
        """
        sent = {"state": MessageState.SENT.value, "sent_at": now, "attempts": outbox.c.attempts + 1, "leased_by": owner}
        ours = and_(outbox.c.pipeline == pipeline, outbox.c.destination == destination, outbox.c.leased_by == owner)
        with self._writing(scope(pipeline)) as connection:
            connection.execute(update(outbox).where(_is_pending(pipeline, destination)).values(sent))
            announced = select(outbox.c.subject_key).where(ours, outbox.c.state == MessageState.SENT)
            return sorted(set(connection.execute(announced).scalars()))

    def mark_given_up(self, message_id: int, error: str) -> None:
        """Record that a message is not sent again until somebody requeues it; a sent message stays sent.

        Raises
        ------
        LedgerError
            If there is no such message.
        """
        self._mark(message_id, {"last_error": error[:_ERROR_LENGTH], "state": MessageState.FAILED.value})

    def renew_leases(self, pipeline: str, destination: str, owner: str, now: datetime) -> None:
        """Renew the leases of messages that this owner has not tried yet: sending one may outlast a lease."""
        leased = and_(_is_pending(pipeline, destination), outbox.c.leased_by == owner)
        with self._writing(scope(pipeline)) as connection:
            connection.execute(update(outbox).where(leased).values(leased_until=now + LEASE))

    def return_leases(self, pipeline: str, destination: str, owner: str) -> None:
        """End the leases of messages that this owner has not tried, so that others can send them."""
        leased = and_(_is_pending(pipeline, destination), outbox.c.leased_by == owner)
        with self._writing(scope(pipeline)) as connection:
            connection.execute(update(outbox).where(leased).values(leased_by=None, leased_until=None))

    def requeue(self, pipeline: str, destination: str | None = None) -> int:
        """Make messages due now that were given up, or that wait for their next attempt.

        A message that was given up stays so if a later revision of its subject has been sent.

        Parameters
        ----------
        pipeline
            The pipeline that queued them.
        destination
            As the outbox names it; without it all destinations of the pipeline.

        Returns
        -------
        int
            The number of messages that are due.

        Raises
        ------
        LedgerError
            If the pipeline has not run.
        """
        later = outbox.alias("later")
        overtaken = exists().where(
            later.c.destination == outbox.c.destination,
            later.c.subject_key == outbox.c.subject_key,
            later.c.id > outbox.c.id,
            later.c.state == MessageState.SENT,
        )
        given_up = and_(outbox.c.state == MessageState.FAILED, ~overtaken)
        chosen = and_(outbox.c.pipeline == pipeline, or_(outbox.c.state == MessageState.PENDING, given_up))
        if destination is not None:
            chosen = and_(chosen, outbox.c.destination == destination)
        now = datetime.now(UTC)
        fresh = {"state": MessageState.PENDING.value, "attempts": 0, "next_attempt_at": now, "queued_at": now}
        with self._writing(scope(pipeline)) as connection:
            need_pipeline(connection, pipeline)
            return connection.execute(update(outbox).where(chosen).values(fresh)).rowcount

    def messages_by_state(self, pipeline: str, run_key: str | None = None) -> dict[str, dict[MessageState, int]]:
        """Count the messages of a pipeline, or of one run of it, by destination and state."""
        conditions = [outbox.c.pipeline == pipeline]
        if run_key is not None:
            conditions.append(outbox.c.run_key == run_key)
        groups = (outbox.c.destination, outbox.c.state)
        counted: dict[str, dict[MessageState, int]] = {}
        with self._reading() as connection:
            for destination, state, number in connection.execute(
                select(*groups, func.count()).where(*conditions).group_by(*groups)
            ):
                counted.setdefault(destination, {})[MessageState(state)] = number
        return counted

    def _mark(self, message_id: int, values: dict[str, Any]) -> None:
        over = {"attempts": outbox.c.attempts + 1, "leased_by": None, "leased_until": None}
        with self._writing("outbox marks") as connection:
            if connection.execute(select(outbox.c.id).where(outbox.c.id == message_id)).one_or_none() is None:
                raise LedgerError(f"the outbox has no message {message_id}: take ids from Ledger.lease_due")
            pending = and_(outbox.c.id == message_id, outbox.c.state == MessageState.PENDING)
            connection.execute(update(outbox).where(pending).values(values | over))
