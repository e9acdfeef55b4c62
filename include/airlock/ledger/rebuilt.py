"""Rebuild a ledger from journals: the calls that runs made, repeated in their order and with their own times.

A rebuild is a row of ``comparisons``; its position is the name of the last entry that was repeated, written in the
transaction of that entry. So an interrupted rebuild goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, delete, exists, func, insert, select, update

from airlock.ledger import clock
from airlock.ledger.arrivals import is_settled
from airlock.ledger.columns import ComparisonKind, MessageState, StoreOrigin, metadata
from airlock.ledger.comparison_tables import comparisons, data_stores, findings, journal_entries
from airlock.ledger.data_stores import note_store
from airlock.ledger.database import Store, note_entry
from airlock.ledger.errors import LedgerError, RebuildTakenError
from airlock.ledger.frames import select_schema, stage
from airlock.ledger.journal import TIME
from airlock.ledger.reconciled import add_removal, close_removed
from airlock.ledger.runs import AUDITED
from airlock.ledger.tables import (
    arrivals,
    gates,
    instances,
    jobs,
    outbox,
    redrives,
    releases,
    resolutions,
    resources,
    runs,
    words,
)
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

SENDS = schema(
    dict.fromkeys(("destination", "subject_key"), pl.String),
    {"revision": pl.Int64, "attempts": pl.Int64},
    dict.fromkeys(("state", "last_error"), pl.String),  # a MessageState
    {"sent_at": TIMESTAMP, "begun_at": TIMESTAMP},  # of the last lot
)
# Columns with the times of transactions, by the clocks of workers. A decision's time is by a person's clock.
_TIMES = (
    *(runs.c.started_at, runs.c.ended_at, arrivals.c.claimed_at, words.c.settled_at, gates.c.decided_at),
    *(redrives.c.asked_at, releases.c.released_at, outbox.c.created_at, resolutions.c.begun_at),
)
# More than passes between the time in an entry's name and the end of its transaction, and between two clocks.
_SLACK = timedelta(hours=1)
_LOOKED = (runs, comparisons, findings, journal_entries)  # of runs that claimed nothing, and of comparisons
_HOLDERS = pl.Schema({"arrival_id": pl.String})


@dataclass(frozen=True)
class Begun:
    """A rebuild that has begun."""

    position: str  # the name of the last entry that was repeated, or `since`
    since: str  # the time up to which a backup has all entries; empty without a backup
    refused: dict[str, int]  # entries that could not be repeated so far, by method and cause


def _find_since(connection: Connection) -> str:
    """Return the time up to which a backup has all entries, in the form in which the names of entries begin.

    A time in the future, of a clock that was wrong, does not count.
    """
    now = clock.database_time(connection)
    named = journal_entries.c.name  # names have one form, so they sort by their times in every collation
    newest = connection.scalar(select(func.max(named)).where(named <= now.strftime(TIME)))
    if newest is not None:
        moment: datetime | None = datetime.strptime(newest.partition("-")[0], TIME).replace(tzinfo=UTC)
    else:  # the backup is from before schema 0014
        times = [connection.scalar(select(func.max(one, type_=one.type)).where(one <= now)) for one in _TIMES]
        moment = max((one for one in times if one is not None), default=None)
    return "" if moment is None else (moment - _SLACK).strftime(TIME)


def _need_older_runs(connection: Connection, first_entries: Mapping[str, str], since: str) -> None:
    """Refuse a ledger that lacks runs from before the time up to which it would have them, were it a backup.

    A run of which a rebuild has named all entries as impossible to repeat is not lacking.
    """
    older = {run for run, name in first_entries.items() if name <= since}
    older -= set(connection.scalars(select(runs.c.run_key)))
    noted = journal_entries.c.name
    lacking = [run for run in sorted(older) if not connection.scalar(select(noted).where(noted == first_entries[run]))]
    if lacking:
        raise LedgerError(
            f"the ledger is not a backup of the lost one: it lacks {len(lacking)} runs that began before its newest "
            f"change, for example {lacking[0]}. Restore a backup, or rebuild into a new database without --onto-backup"
        )


def _command(scope: Any) -> str:
    is_onto_backup = isinstance(scope, dict) and scope.get("onto_backup")
    return "airlock ledger rebuild --onto-backup" if is_onto_backup else "airlock ledger rebuild"


def _tell_counts(begun: Begun) -> str:
    return json.dumps({"since": begun.since, "refused": begun.refused})


def _empty(connection: Connection) -> None:
    """Delete what was written before a person noticed that the ledger was lost, or refuse a ledger that has more.

    Runs refused to import into a data store that the lost ledger knew; dry sweeps and reconciliations compared with it.
    """
    filled = [table for table in metadata.tables.values() if connection.scalar(select(exists(table.select())))]
    if any(table not in _LOOKED for table in filled):
        names = [table.name for table in filled]
        raise LedgerError(
            f"the ledger is not empty: it has rows in {len(names)} tables, for example in {min(names)}. "
            f"If it is a restored backup, add --onto-backup. Otherwise rebuild into a new database"
        )
    for table in filled:
        connection.execute(delete(table))


def _is_open_rebuild() -> Any:
    return and_(comparisons.c.kind == ComparisonKind.REBUILD.value, comparisons.c.ended_at.is_(None))


def _taken() -> RebuildTakenError:
    return RebuildTakenError("another process goes on with this rebuild, or has ended it. Let that one end")


def _change_open(connection: Connection, **values: Any) -> None:
    if not connection.execute(update(comparisons).where(_is_open_rebuild()).values(values)).rowcount:
        raise _taken()


def _need_same_scope(begun: Any, told: Any) -> None:
    if begun == told:
        return
    if _command(begun) != _command(told):
        raise LedgerError(f"another rebuild is unfinished. Continue it: {_command(begun)}")
    raise LedgerError(
        "a rebuild from other workspaces is unfinished: repeat it with the same pipeline files, or begin again with an "
        "empty database"
    )


class Rebuilds(Store):
    """The ledger's methods about its own rebuild."""

    def begin_rebuild(
        self, scope: Any, asked_by: str, *, onto_backup: bool = False, first_entries: Mapping[str, str] | None = None
    ) -> Begun:
        """Begin a rebuild, or go on with an unfinished one.

        Onto a restored backup, entries are repeated that the backup does not name, and are not much older than the
        newest that it names.

        Parameters
        ----------
        scope
            The workspaces, as JSON values. An unfinished rebuild is continued only for the same ones.
        asked_by
            The person.
        onto_backup
            Whether the ledger is a restored backup, and not empty.
        first_entries
            The name of the first entry of each run in the workspaces.

        Raises
        ------
        LedgerError
            If the ledger is not empty and no backup, or an unfinished rebuild is about other workspaces.
        """
        told = json.dumps(scope, sort_keys=True)
        with self._writing("rebuild") as connection:
            row = connection.execute(select(comparisons).where(_is_open_rebuild())).one_or_none()
            if row is not None:
                _need_same_scope(json.loads(row.scope), json.loads(told))
                return Begun(json.loads(row.position), **json.loads(row.counts))
            since = _find_since(connection) if onto_backup else ""
            if onto_backup:
                _need_older_runs(connection, first_entries or {}, since)
            else:
                _empty(connection)
            values = {"kind": ComparisonKind.REBUILD.value, "scope": told, "is_dry": False, "asked_by": asked_by}
            begun = Begun(since, since, {})
            values |= {"position": json.dumps(since), "counts": _tell_counts(begun)}
            connection.execute(insert(comparisons).values(**values, began_at=datetime.now(UTC)))
            return begun

    def find_noted(self, since: str) -> set[str]:
        """Return the names of the entries after this time whose changes the ledger has."""
        noted = journal_entries.c.name
        with self._reading() as connection:
            return set(connection.scalars(select(noted).where(noted > since)))

    def move_rebuild(self, name: str, begun: Begun | None = None) -> None:
        """Note the last entry that was repeated; with *begun* also those that could not be.

        Raises
        ------
        RebuildTakenError
            If another process has repeated it, or has ended the rebuild.
        """
        counts = {} if begun is None else {"counts": _tell_counts(begun)}
        with self._writing("rebuild") as connection:
            is_new = note_entry(connection, name)
            _change_open(connection, position=json.dumps(name), **counts)
            if not is_new:
                raise _taken()

    def end_rebuild(self, counts: Any) -> None:
        """End the rebuild: from now on runs may use the ledger.

        Raises
        ------
        RebuildTakenError
            If another process has ended it.
        """
        with self._writing("rebuild") as connection:
            _change_open(connection, counts=json.dumps(counts), ended_at=datetime.now(UTC))

    def find_given_back(self, pipeline: str, run_key: str, listing: Iterable[pl.DataFrame]) -> list[str]:
        """Return the runs that have given arrivals back, by a listing of all that one run holds."""
        with self._reading() as connection:
            rows = stage(connection, (select_schema(frame, _HOLDERS) for frame in listing), _HOLDERS, ["arrival_id"])
            of_run = and_(arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key)
            known = select(arrivals.c.run_key).join(rows, rows.c.arrival_id == arrivals.c.arrival_id)
            others = known.where(arrivals.c.pipeline == pipeline, arrivals.c.run_key != run_key).distinct()
            kept = exists(select(rows.c.arrival_id).where(rows.c.arrival_id == arrivals.c.arrival_id))
            lost = connection.scalar(select(exists().where(of_run, ~kept)))
            return [*sorted(connection.scalars(others)), *([run_key] if lost else [])]

    def repeat_removal(
        self, pipeline: str, datastore_id: str, study_key: str, *, decided_by: str, why: str, removed: int
    ) -> None:
        """Record a person's decision that something of a study was removed; not all its findings were kept."""
        with self._writing("decisions") as connection:
            now = clock.now()
            close_removed(connection, datastore_id, study_key, decided_by, now)
            if removed:
                add_removal(connection, (pipeline, datastore_id, study_key, decided_by, why), removed, now)

    def record_sends(self, sends: pl.DataFrame) -> int:
        """Record what is known of messages that were being sent, as `SENDS`; return their number."""
        with self._writing("rebuild") as connection:
            rows = stage(connection, sends.with_columns(pl.col("begun_at") + _SLACK), SENDS, ["subject_key"])
            same = and_(*(outbox.c[name] == rows.c[name] for name in ("subject_key", "revision", "destination")))
            values = {name: rows.c[name] for name in ("state", "attempts", "last_error", "sent_at")}
            # A backup may know more than the notes: that a message was sent, or was queued again by a person.
            news = outbox.c.state != MessageState.SENT, outbox.c.queued_at <= rows.c.begun_at
            return connection.execute(update(outbox).where(same, *news).values(values)).rowcount

    def find_sends_since(self, since: str) -> str:
        """Return the time from which notes of routes count: the rebuild's, or that of the oldest message that waits."""
        waits = outbox.c.state == MessageState.PENDING
        with self._reading() as connection:
            oldest = connection.scalar(select(func.min(outbox.c.queued_at, type_=outbox.c.queued_at.type)).where(waits))
        return since if oldest is None else min(since, (oldest - _SLACK).strftime(TIME))

    def record_rebuilt_stores(self) -> list[str]:
        """Record the data stores into which rebuilt runs have imported; return their ids."""
        with self._writing("rebuild") as connection:
            found = {
                name
                for column in (instances.c.datastore_id, resources.c.datastore_id)
                for name in connection.scalars(select(column).distinct())
            }
            for name in sorted(found):
                note_store(connection, name, StoreOrigin.REBUILT)
            return sorted(found)

    def find_unsettled(self) -> list[str]:
        """Return the audited runs that hold arrivals without a word, each with its pipeline: <pipeline>/<run>."""
        of_run = and_(arrivals.c.run_key == runs.c.run_key, ~is_settled(arrivals))
        audited = select(runs.c.pipeline, runs.c.run_key).where(runs.c.state == AUDITED, exists().where(of_run))
        with self._reading() as connection:
            return sorted(f"{pipeline}/{run}" for pipeline, run in connection.execute(audited))

    def close_stores(self, datastore_ids: Iterable[str]) -> None:
        """Let no run import into these data stores until they are adopted: the ledger lacks some of what is there."""
        values = {"origin": StoreOrigin.ADOPTING.value, "counts": None}
        with self._writing("rebuild") as connection:
            for name in datastore_ids:
                note_store(connection, name, StoreOrigin.ADOPTING)
                this = data_stores.c.datastore_id == name
                connection.execute(update(data_stores).where(this).values(values))

    def count_rebuilt(self) -> dict[str, int]:
        """Return numbers of what was rebuilt, and of what is still open in it."""
        with self._reading() as connection:
            open_runs = select(func.count()).where(runs.c.state != AUDITED)
            unended = select(func.count()).where(jobs.c.status.is_(None))
            unknown = select(func.count()).where(outbox.c.last_error == UNKNOWN_SEND)
            counts = {table.name: select(func.count()).select_from(table) for table in (runs, arrivals, jobs, outbox)}
            counts |= {"runs_not_audited": open_runs, "jobs_without_an_end": unended, "sends_unknown": unknown}
            return {name: int(connection.execute(query).scalar_one()) for name, query in counts.items()}


UNKNOWN_SEND = "unknown_after_rebuild"  # the destination may have the message: only a person queues it again


def need_no_rebuild(connection: Connection) -> None:
    """Refuse a ledger whose rebuild is unfinished: a run would import again what is not rebuilt yet.

    Raises
    ------
    LedgerError
        If so.
    """
    scope = connection.scalar(select(comparisons.c.scope).where(_is_open_rebuild()))
    if scope is not None:
        raise LedgerError(
            f"the rebuild of the ledger is unfinished. Continue it: {_command(json.loads(scope))}. Keep all pipelines "
            f"paused until it has ended"
        )
