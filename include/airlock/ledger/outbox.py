"""The outbox: messages about released contracts, queued or sent, per destination.

A revision of a subject is queued once per destination, whichever run queues it. The *destination* is the address
itself, so that two pipelines with one address do not send it the same content twice. A destination gets the revisions
of a subject in ascending order; a revision that comes too late is not queued, or is skipped.

A sender leases the messages that it is about to send. A lease belongs to one try of one task, never to its retry, and
ends by the database's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, exists, func, or_, select, text, update

from airlock.ledger import clock
from airlock.ledger.columns import MessageState
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import fetch_by_values, insert_missing, select_schema, stage
from airlock.ledger.journal import journaled
from airlock.ledger.runs import need_pipeline, need_run
from airlock.ledger.tables import OPEN_MESSAGE, outbox
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, FromClause, Row

MESSAGES = pl.Schema(
    {"subject_key": pl.String, "revision": pl.Int64, "content_digest": pl.String, "payload_uri": pl.String}
)
_QUEUED = schema(MESSAGES, {"next_attempt_at": TIMESTAMP})
_KNOWN = schema(
    {"id": pl.Int64, "subject_key": pl.String, "revision": pl.Int64, "content_digest": pl.String},
    {"state": pl.String, "attempts": pl.Int64, "next_attempt_at": TIMESTAMP, "leased_until": TIMESTAMP},
)
_ID = pl.Schema({"id": pl.Int64})
_LEASED = pl.Schema({"id": pl.Int64, "subject_key": pl.String, "revision": pl.Int64})
LEASE = timedelta(minutes=2)  # a living sender renews its leases long before they end
_ERROR_LENGTH = 2_000
# A message is pending if it is none of these. Said so, PostgreSQL finds it by its subject: from "state = 'pending'" it
# would read all open messages for each one, until it has statistics of a table that has just grown.
_OVER = (MessageState.SENT.value, MessageState.FAILED.value, MessageState.SKIPPED.value)


@dataclass(frozen=True)
class Queued:
    """The numbers of messages that a call queued, and did not queue."""

    queued: int
    overtaken: int  # the destination has a later revision of the subject, or this one with other content


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
    """Return the lock scope of writers to a pipeline's messages; see `database.writing`."""
    return f"outbox of {pipeline}"


def destination_scope(destination: str) -> str:
    """Return the lock scope of writers to a destination's messages: two pipelines may share a destination."""
    return f"destination {destination}"


def _read_message(row: Row[Any]) -> OutboxMessage:
    return OutboxMessage(**{field.name: getattr(row, field.name) for field in fields(OutboxMessage)})


def _is_pending(pipeline: str, destination: str) -> ColumnElement[bool]:
    mine = and_(outbox.c.pipeline == pipeline, outbox.c.destination == destination)
    return and_(mine, outbox.c.state == MessageState.PENDING, text(f"outbox.{OPEN_MESSAGE}"))


def _is_unleased(table: FromClause, now: datetime, owner: str | None = None) -> ColumnElement[bool]:
    return or_(table.c.leased_until.is_(None), table.c.leased_until <= now, table.c.leased_by == owner)


def _is_sendable(table: FromClause, now: datetime, owner: str | None, since: datetime) -> ColumnElement[bool]:
    """Return the condition that a sender who began at *since* may send a message now."""
    return and_(table.c.next_attempt_at <= since, _is_unleased(table, now, owner))


def _select_fresh(frame: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return the messages to queue: later than the destination's latest, and of other content than the one before."""
    latest = known.sort("revision").group_by("subject_key").last()
    latest = latest.select("subject_key", last_revision="revision", last_digest="content_digest")
    rows = frame.join(latest, on="subject_key", how="left").sort("subject_key", "revision")
    later = rows.filter(pl.col("last_revision").is_null() | (pl.col("revision") > pl.col("last_revision")))
    before = pl.col("content_digest").shift(1).over("subject_key").fill_null(pl.col("last_digest"))
    return later.filter(before.is_null() | (before != pl.col("content_digest"))).select(MESSAGES.names())


def _count_overtaken(frame: pl.DataFrame, known: pl.DataFrame) -> int:
    same = frame.join(known, on=["subject_key", "revision", "content_digest"], how="anti")
    latest = known.group_by("subject_key").agg(pl.col("revision").max().alias("last_revision"))
    return same.join(latest, on="subject_key").filter(pl.col("revision") <= pl.col("last_revision")).height


def _find_settling(known: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Return the messages that wait for later revisions of their subjects, which take their places."""
    untried = (pl.col("state") == MessageState.PENDING) & (pl.col("attempts") == 0)
    leased = (pl.col("leased_until") > now).fill_null(value=False)
    return known.filter(untried & ~leased & (pl.col("next_attempt_at") > now))


def _merge(fresh: pl.DataFrame, settling: pl.DataFrame, due: datetime, now: datetime) -> pl.DataFrame:
    """Return the messages to insert, as `_QUEUED`: of revisions that settle together only the last one."""
    if due > now:
        fresh = fresh.unique("subject_key", keep="last", maintain_order=True)
    first = settling.group_by("subject_key").agg(pl.col("next_attempt_at").min().alias("first_due"))
    when = pl.min_horizontal(pl.lit(due, TIMESTAMP), "first_due").alias("next_attempt_at")
    return (
        fresh.join(first, on="subject_key", how="left", maintain_order="left")
        .with_columns(when)
        .select(_QUEUED.names())
    )


class Outbox(Store):
    """The ledger's methods about the outbox."""

    @journaled()
    def enqueue(
        self,
        pipeline: str,
        run_key: str,
        destination: str,
        messages: pl.DataFrame,
        *,
        not_before: datetime | None = None,
    ) -> Queued:
        """Queue messages, except those that the destination need not or must not get.

        A message is not queued if this revision or a later one of its subject is queued already, or if the latest
        queued one has the same content. A message whose predecessor still settles takes its place and its due time.

        Parameters
        ----------
        pipeline, run_key
            The run that released the subjects.
        destination
            The address.
        messages
            Columns ``subject_key``, ``revision``, ``content_digest``, ``payload_uri``.
        not_before
            The end of the time in which later revisions take the place of these; without it they are due now.

        Raises
        ------
        LedgerError
            If the run is unknown.
        """
        frame = select_schema(messages, MESSAGES).unique(["subject_key", "revision"], keep="first", maintain_order=True)
        with self._writing(scope(pipeline), destination_scope(destination)) as connection:
            need_run(connection, run_key, pipeline)
            to_it = outbox.c.destination == destination
            known = fetch_by_values(connection, outbox, _KNOWN, frame["subject_key"], "subject_key", to_it)
            now = clock.database_time(connection)
            settling, fresh = _find_settling(known, now), _select_fresh(frame, known)
            settling = settling.join(fresh, on="subject_key", how="semi")
            self._skip(connection, settling)
            rows = _merge(fresh, settling, max(now, not_before or now), now)
            constants: dict[str, Any] = {"pipeline": pipeline, "run_key": run_key, "destination": destination}
            constants |= {"state": MessageState.PENDING.value, "attempts": 0, "created_at": now, "queued_at": now}
            staged = stage(connection, rows, _QUEUED, ["subject_key"])
            key, order = ["subject_key", "revision", "destination"], ["subject_key", "revision"]
            queued = insert_missing(connection, outbox, staged, key, order, **constants)
        return Queued(queued, _count_overtaken(frame, known))

    @staticmethod
    def _skip(connection: Connection, messages: pl.DataFrame) -> None:
        if not messages.is_empty():
            rows = stage(connection, messages.select("id"), _ID, ["id"])
            connection.execute(update(outbox).where(outbox.c.id == rows.c.id).values(state=MessageState.SKIPPED.value))

    def lease_due(
        self,
        pipeline: str,
        destination: str,
        limit: int,
        owner: str | None = None,
        *,
        since: datetime | None = None,
        lease: timedelta = LEASE,
    ) -> list[OutboxMessage]:
        """Lease and return the messages to send now, in order.

        A later revision waits for an earlier one that is being sent, or that the pipeline itself will send again. It
        takes the place of an earlier one that another pipeline has queued and nobody sends.

        Parameters
        ----------
        pipeline, destination
            The pipeline that queued the messages, and their destination.
        limit
            The largest number of messages to return.
        owner
            The sender, one try of a task. Until the lease ends no other sender gets these messages, unless they fail
            before. With None the messages are not leased.
        since
            The database's time at which the sender began (`clock`): a message that became due later has failed since,
            and waits for the next attempt.
        lease
            The length of the lease, from this call or from the last `renew_leases`.
        """
        with self._writing(scope(pipeline), destination_scope(destination)) as connection:
            now = clock.database_time(connection)
            free = _is_sendable(outbox, now, owner, since or now)
            waits = and_(_is_pending(pipeline, destination), free, ~_is_blocked(pipeline, now, owner, since or now))
            statement = select(outbox).where(waits).order_by(outbox.c.id).limit(limit)
            found = [_read_message(row) for row in connection.execute(statement)]
            if owner is not None and found:
                of_others = and_(outbox.c.destination == destination, outbox.c.pipeline != pipeline)
                self._lease(connection, found, of_others, leased_by=owner, leased_until=now + lease)
        return found

    @staticmethod
    def _lease(
        connection: Connection, messages: Sequence[OutboxMessage], of_others: ColumnElement[bool], **lease: Any
    ) -> None:
        """Lease messages, and skip the earlier revisions that other pipelines have queued for their destination."""
        frame = pl.DataFrame([(one.id, one.subject_key, one.revision) for one in messages], _LEASED, orient="row")
        rows = stage(connection, frame, _LEASED, ["id"])
        connection.execute(update(outbox).where(outbox.c.id == rows.c.id).values(lease))
        earlier = and_(outbox.c.subject_key == rows.c.subject_key, outbox.c.revision < rows.c.revision)
        overtaken = and_(of_others, outbox.c.state == MessageState.PENDING, exists().where(earlier))
        connection.execute(update(outbox).where(overtaken).values(state=MessageState.SKIPPED.value))

    def clock(self) -> datetime:
        """Return the database's time."""
        with self._reading() as connection:
            return clock.database_time(connection)

    def time_until_free(self, pipeline: str, destinations: Sequence[str], *, leased: bool = True) -> timedelta | None:
        """Return the time until the first message can be sent that settles or that another sender has leased.

        Parameters
        ----------
        pipeline, destinations
            The pipeline that queued the messages, and their destinations.
        leased
            Whether leased messages count; without them only those that settle.

        Returns
        -------
        timedelta or None
            None if there is no such message. Messages that failed before and wait for their next attempt do not count.
        """
        mine = and_(outbox.c.pipeline == pipeline, outbox.c.destination.in_(destinations))
        pending = and_(mine, outbox.c.state == MessageState.PENDING, text(f"outbox.{OPEN_MESSAGE}"))
        with self._reading() as connection:
            now = clock.database_time(connection)
            unleased = or_(outbox.c.leased_until.is_(None), outbox.c.leased_until <= now)
            settles = and_(pending, outbox.c.attempts == 0, unleased, outbox.c.next_attempt_at > now)
            asked = [select(func.min(outbox.c.next_attempt_at)).where(settles)]
            if leased:
                asked.append(select(func.min(outbox.c.leased_until)).where(pending, outbox.c.leased_until > now))
            times = [moment for query in asked if (moment := connection.execute(query).scalar_one()) is not None]
        return min(times) - now if times else None

    def mark_sent(self, message_id: int) -> None:
        """Record that a message has arrived, whoever has leased it since; a second call changes nothing.

        Raises
        ------
        LedgerError
            If there is no such message.
        """
        self._mark(message_id, {"state": MessageState.SENT.value, "last_error": None}, sent=True)

    def mark_failed(self, message_id: int, error: str, wait: timedelta, owner: str | None = None) -> None:
        """Record that sending a message failed, and when it is tried again; a sent message stays sent.

        Parameters
        ----------
        message_id
            The message.
        error
            A code, without data of a patient.
        wait
            The time until the next attempt.
        owner
            The sender. If another one has leased the message since, nothing is recorded.

        Raises
        ------
        LedgerError
            If there is no such message.
        """
        self._mark(message_id, {"last_error": error[:_ERROR_LENGTH]}, owner=owner, wait=wait)

    def mark_given_up(self, message_id: int, error: str, owner: str | None = None) -> None:
        """Record that a message is not sent again until somebody requeues it; see `mark_failed`.

        Raises
        ------
        LedgerError
            If there is no such message.
        """
        given_up = {"last_error": error[:_ERROR_LENGTH], "state": MessageState.FAILED.value}
        self._mark(message_id, given_up, owner=owner)

    def mark_all_sent(self, pipeline: str, destination: str, message_ids: pl.Series) -> None:
        """Record that messages to one destination have arrived; a second call changes nothing."""
        with self._writing(scope(pipeline)) as connection:
            rows = stage(connection, message_ids.to_frame("id"), _ID, ["id"])
            over = {"attempts": outbox.c.attempts + 1, "leased_by": None, "leased_until": None, "last_error": None}
            sent = {"state": MessageState.SENT.value, "sent_at": clock.database_time(connection)}
            chosen = and_(_is_pending(pipeline, destination), outbox.c.id == rows.c.id)
            connection.execute(update(outbox).where(chosen).values(over | sent))

    def renew_leases(self, pipeline: str, destination: str, owner: str) -> None:
        """Renew the leases of messages that this owner has not tried yet: sending one may outlast a lease."""
        leased = and_(_is_pending(pipeline, destination), outbox.c.leased_by == owner)
        with self._writing(scope(pipeline)) as connection:
            until = clock.database_time(connection) + LEASE
            connection.execute(update(outbox).where(leased).values(leased_until=until))

    def return_leases(self, pipeline: str, destination: str, owner: str) -> None:
        """End the leases of messages that this owner has not tried, so that others can send them."""
        leased = and_(_is_pending(pipeline, destination), outbox.c.leased_by == owner)
        with self._writing(scope(pipeline)) as connection:
            connection.execute(update(outbox).where(leased).values(leased_by=None, leased_until=None))

    def requeue(self, pipeline: str, destination: str | None = None) -> int:
        """Make messages due now that were given up, or that wait for their next attempt.

        A message that was given up stays so if a later revision of its subject has been sent, or is being sent.

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
        mine = and_(outbox.c.pipeline == pipeline, text(f"outbox.{OPEN_MESSAGE}"))
        if destination is not None:
            mine = and_(mine, outbox.c.destination == destination)
        with self._reading() as connection:
            need_pipeline(connection, pipeline)
            found = list(connection.execute(select(outbox.c.destination).where(mine).distinct()).scalars())
        with self._writing(scope(pipeline), *map(destination_scope, found)) as connection:
            now = clock.database_time(connection)
            given_up = and_(outbox.c.state == MessageState.FAILED, ~_is_overtaken(now))
            waits = outbox.c.state == MessageState.PENDING
            chosen = and_(mine, outbox.c.destination.in_(found), or_(waits, given_up))
            fresh = {"state": MessageState.PENDING.value, "attempts": 0, "next_attempt_at": now, "queued_at": now}
            return connection.execute(update(outbox).where(chosen).values(fresh)).rowcount

    def messages_by_state(self, pipeline: str, run_key: str | None = None) -> dict[str, dict[MessageState, int]]:
        """Count the messages of a pipeline, or of what one run released, by destination and state."""
        mine = outbox.c.pipeline == pipeline
        return self._count(mine if run_key is None else and_(mine, outbox.c.run_key == run_key))

    def open_messages(self, pipeline: str) -> dict[str, dict[MessageState, int]]:
        """Count a pipeline's messages that wait or were given up, by destination and state, from their index."""
        return self._count(and_(outbox.c.pipeline == pipeline, text(f"outbox.{OPEN_MESSAGE}")))

    def overdue_messages(self, pipeline: str, run_key: str) -> dict[str, int]:
        """Count a run's messages that wait although they have settled, by destination."""
        mine = and_(outbox.c.pipeline == pipeline, outbox.c.run_key == run_key)
        with self._reading() as connection:
            now = clock.database_time(connection)
        settled = or_(outbox.c.attempts > 0, outbox.c.next_attempt_at <= now)
        counted = self._count(and_(mine, outbox.c.state == MessageState.PENDING, settled))
        return {destination: sum(by_state.values()) for destination, by_state in counted.items()}

    def _count(self, condition: ColumnElement[bool]) -> dict[str, dict[MessageState, int]]:
        groups = (outbox.c.destination, outbox.c.state)
        counted: dict[str, dict[MessageState, int]] = {}
        with self._reading() as connection:
            for destination, state, number in connection.execute(
                select(*groups, func.count()).where(condition).group_by(*groups)
            ):
                counted.setdefault(destination, {})[MessageState(state)] = number
        return counted

    def _mark(
        self,
        message_id: int,
        values: dict[str, Any],
        *,
        sent: bool = False,
        owner: str | None = None,
        wait: timedelta | None = None,
    ) -> None:
        over = {"attempts": outbox.c.attempts + 1, "leased_by": None, "leased_until": None}
        # One conditional UPDATE of one row needs no lock.
        with self._writing() as connection:
            if connection.execute(select(outbox.c.id).where(outbox.c.id == message_id)).one_or_none() is None:
                raise LedgerError(f"the outbox has no message {message_id}: take ids from Ledger.lease_due")
            now = clock.database_time(connection)
            times: dict[str, Any] = {"sent_at": now} if sent else {}
            times |= {} if wait is None else {"next_attempt_at": now + wait}
            pending = and_(outbox.c.id == message_id, outbox.c.state == MessageState.PENDING)
            mine = pending if owner is None else and_(pending, outbox.c.leased_by == owner)
            connection.execute(update(outbox).where(mine).values(values | over | times))


def _is_blocked(pipeline: str, now: datetime, owner: str | None, since: datetime) -> ColumnElement[bool]:
    """Return the condition that an earlier revision of a message must go first."""
    earlier = outbox.alias("earlier")
    own = and_(earlier.c.pipeline == pipeline, ~_is_sendable(earlier, now, owner, since))
    return exists().where(
        earlier.c.destination == outbox.c.destination,
        earlier.c.subject_key == outbox.c.subject_key,
        earlier.c.revision < outbox.c.revision,
        earlier.c.state.not_in(_OVER),
        or_(own, ~_is_unleased(earlier, now, owner)),
    )


def _is_overtaken(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a later revision of a message was sent, or is being sent."""
    later = outbox.alias("later")
    under_way = and_(later.c.state == MessageState.PENDING, later.c.leased_until > now)
    return exists().where(
        later.c.destination == outbox.c.destination,
        later.c.subject_key == outbox.c.subject_key,
        later.c.revision > outbox.c.revision,
        or_(later.c.state == MessageState.SENT, under_way),
    )
