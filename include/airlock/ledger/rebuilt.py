"""Rebuild a ledger from journals: the calls that runs made, repeated in their order and with their own times.

A rebuild is a row of ``comparisons``; its position is the name of the last entry that was repeated, written in the
transaction of that entry. So an interrupted rebuild goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, delete, exists, func, insert, select, update

from airlock.ledger import clock
from airlock.ledger.columns import ComparisonKind, StoreOrigin, metadata
from airlock.ledger.comparison_tables import comparisons, data_stores, findings
from airlock.ledger.data_stores import note_store
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import decisions
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import select_schema, stage
from airlock.ledger.journal import TIME
from airlock.ledger.reconciled import add_removal, close_removed
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
    from collections.abc import Iterable

    from sqlalchemy import Connection

SENDS = schema(
    dict.fromkeys(("destination", "subject_key"), pl.String),
    {"revision": pl.Int64, "attempts": pl.Int64},
    dict.fromkeys(("state", "last_error"), pl.String),  # a MessageState
    {"sent_at": TIMESTAMP},
)
# Columns that hold the times of transactions.
_TIMES = (
    *(runs.c.started_at, runs.c.ended_at, arrivals.c.claimed_at, words.c.settled_at, gates.c.decided_at),
    *(decisions.c.decided_at, redrives.c.asked_at, releases.c.released_at, outbox.c.created_at, resolutions.c.begun_at),
)
_LOOKED = (runs, comparisons, findings)  # rows of runs that claimed nothing, and of comparisons
_HOLDERS = pl.Schema({"arrival_id": pl.String})


@dataclass(frozen=True)
class Begun:
    """A rebuild that has begun."""

    position: str  # the name of the last entry that was repeated, or the time of the backup; empty at the beginning
    since: str  # the time of the backup; empty without one
    refused: dict[str, int]  # entries that could not be repeated so far, by method and cause


def _find_newest(connection: Connection) -> str:
    """Return the newest time in the ledger, in the form in which the names of entries begin."""
    times = [connection.scalar(select(func.max(column, type_=column.type))) for column in _TIMES]
    newest = max((one for one in times if one is not None), default=None)
    return "" if newest is None else newest.strftime(TIME)


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


class Rebuilds(Store):
    """The ledger's methods about its own rebuild."""

    def begin_rebuild(self, scope: Any, asked_by: str, *, onto_backup: bool = False) -> Begun:
        """Begin a rebuild, or go on with an unfinished one.

        Onto a restored backup it begins at the newest time that the backup has: what came later is repeated, and so may
        be the last transactions of the backup, which changes nothing.

        Parameters
        ----------
        scope
            The workspaces, as JSON values. An unfinished rebuild is continued only for the same ones.
        asked_by
            The person.
        onto_backup
            Whether the ledger is a restored backup, and not empty.

        Raises
        ------
        LedgerError
            If the ledger is not empty and no backup, or an unfinished rebuild is about other workspaces.
        """
        told = json.dumps(scope, sort_keys=True)
        with self._writing("rebuild") as connection:
            row = connection.execute(select(comparisons).where(_is_open_rebuild())).one_or_none()
            if row is not None:
                if row.scope != told:
                    raise LedgerError(
                        "a rebuild from other workspaces is unfinished: repeat it with the same pipeline files, or "
                        "begin again with an empty database"
                    )
                return Begun(json.loads(row.position), **json.loads(row.counts))
            since = _find_newest(connection) if onto_backup else ""
            if not onto_backup:
                _empty(connection)
            values = {"kind": ComparisonKind.REBUILD.value, "scope": told, "is_dry": False, "asked_by": asked_by}
            begun = Begun(since, since, {})
            values |= {"position": json.dumps(since), "counts": _tell_counts(begun)}
            connection.execute(insert(comparisons).values(**values, began_at=datetime.now(UTC)))
            return begun

    def move_rebuild(self, name: str, begun: Begun | None = None) -> None:
        """Note the last entry that was repeated; with *begun* also those that could not be."""
        counts = {} if begun is None else {"counts": _tell_counts(begun)}
        with self._writing("rebuild") as connection:
            connection.execute(
                update(comparisons).where(_is_open_rebuild()).values(position=json.dumps(name), **counts)
            )

    def end_rebuild(self, counts: Any) -> None:
        """End the rebuild: from now on runs may use the ledger."""
        with self._writing("rebuild") as connection:
            values = {"counts": json.dumps(counts), "ended_at": datetime.now(UTC)}
            connection.execute(update(comparisons).where(_is_open_rebuild()).values(values))

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
            add_removal(connection, (pipeline, datastore_id, study_key, decided_by, why), removed, now)

    def record_sends(self, sends: pl.DataFrame) -> int:
        """Record what is known of messages that were being sent, as `SENDS`; return their number."""
        with self._writing("rebuild") as connection:
            rows = stage(connection, sends, SENDS, ["subject_key"])
            same = and_(*(outbox.c[name] == rows.c[name] for name in ("subject_key", "revision", "destination")))
            values = {name: rows.c[name] for name in ("state", "attempts", "last_error", "sent_at")}
            return connection.execute(update(outbox).where(same).values(values)).rowcount

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
            open_runs = select(func.count()).where(runs.c.state != "audited")
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
    if connection.scalar(select(exists().where(_is_open_rebuild()))):
        raise LedgerError(
            "the rebuild of the ledger is unfinished. Continue it: airlock ledger rebuild. Keep all pipelines paused "
            "until it has ended"
        )
