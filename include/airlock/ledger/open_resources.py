"""FHIR resources whose last attempt did not end in a release: refused, stopped, held, or in doubt.

They hold their patient across runs, and a contract counts them. One whose content the data store may have keeps its
clock, so that older content does not follow it. The row goes when a run has brought the resource; that of a stopped
content stays if what was brought is older.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, delete, exists, func, literal, null, or_, select, update

from airlock.ledger.columns import OpenState
from airlock.ledger.database import PartScope, Store
from airlock.ledger.frames import fetch, insert_missing, select_schema, stage, stage_values
from airlock.ledger.journal import journaled
from airlock.ledger.runs import need_run
from airlock.ledger.tables import arrivals, open_resources, resources, runs
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import Case, Column, ColumnElement, Connection, Exists, FromClause, ScalarSelect, Select, Table

SCOPE = "resources"
OPEN = pl.Schema(
    dict.fromkeys(
        (
            "resource_type",
            "resource_id",
            "patient",  # Patient/<id>, or file/<arrival id> of a resource without one
            "state",  # an `OpenState`
            "reason",
            "content_digest",
            "arrival_id",
            "clock",  # of `stages.content_order`, of a stopped content
        ),
        pl.String,
    )
)
FOUND_OPEN = pl.Schema(dict(OPEN) | {"run_key": pl.String, "pipeline": pl.String})
# A stopped content, and the content of the same resource that a run brings, with its file.
STOPPED_CONTENTS = schema(
    dict.fromkeys(
        ("resource_type", "resource_id", "content_digest", "clock", "known_digest", "known_clock"), pl.String
    ),
    {"bucket": pl.String, "key": pl.String, "last_modified": TIMESTAMP},
)
_RESOURCE = ("resource_id", "resource_type")
_KEY = (*_RESOURCE, "datastore_id")
_RESOURCES = pl.Schema(dict.fromkeys(_RESOURCE, pl.String))
_IN_STORE = open_resources.c.state.in_((OpenState.DOUBTFUL.value, OpenState.HELD.value))


def scope(datastore_id: str) -> PartScope:
    """Return the lock scope of writers of a data store's resources and open resources; see `database.writing`."""
    return PartScope(SCOPE, datastore_id)


def _is_of(rows: FromClause, datastore_id: str) -> ColumnElement[bool]:
    same = (open_resources.c[name] == rows.c[name] for name in _RESOURCE)
    return and_(open_resources.c.datastore_id == datastore_id, *same)


def is_staged(rows: FromClause, datastore_id: str) -> ColumnElement[bool]:
    """Return the condition that a row of ``resources`` is staged, for statements that join with the staged rows."""
    return and_(resources.c.datastore_id == datastore_id, *(resources.c[name] == rows.c[name] for name in _RESOURCE))


def is_same_resource() -> ColumnElement[bool]:
    """Return the condition that an open resource is the one of a row of ``resources``."""
    return and_(*(resources.c[name] == open_resources.c[name] for name in _KEY))


def is_unproven(rows: FromClause, datastore_id: str) -> Exists:
    """Return the condition that a run holds or doubts the content of a staged resource."""
    return exists().where(_is_of(rows, datastore_id), _IN_STORE)


def unknown_contents(rows: Table, datastore_id: str, except_run: str | None, *more: Column[str]) -> Select[Any]:
    """Return the query for contents of staged resources that the data store may have; see `resources`."""
    file = and_(arrivals.c.arrival_id == open_resources.c.arrival_id, arrivals.c.pipeline == open_resources.c.pipeline)
    content = open_resources.c.content_digest, open_resources.c.clock
    columns: list[Any] = [*more, *content, *(arrivals.c[name] for name in ("bucket", "key", "last_modified"))]
    found = select(*columns).select_from(rows.join(open_resources, _is_of(rows, datastore_id)))
    statement = found.outerjoin(arrivals, file).where(_IN_STORE)
    return statement if except_run is None else statement.where(open_resources.c.run_key != except_run)


def _began(run_key: str | Column[str]) -> ScalarSelect[datetime]:
    began = runs.alias()
    return select(began.c.started_at).where(began.c.run_key == run_key).scalar_subquery()


def doubted_since(rows: FromClause, datastore_id: str, run_key: str) -> Exists:
    """Return the condition that a later run is in doubt about a staged resource."""
    later = _began(open_resources.c.run_key) > _began(run_key)
    return exists().where(_is_of(rows, datastore_id), open_resources.c.run_key != run_key, _IN_STORE, later)


def _brought_since(rows: Table, datastore_id: str, run_key: str) -> Exists:
    """Return the condition that a later run has brought a staged resource, or any run the stopped content itself.

    A stopped content with a clock is missing although a later run has brought another content, which may be older.
    """
    later, is_stopped = _began(resources.c.run_key) > _began(run_key), rows.c.state == OpenState.STOPPED.value
    same_content = resources.c.content_digest == rows.c.content_digest
    known = or_(and_(later, ~and_(is_stopped, rows.c.clock.is_not(None))), and_(is_stopped, same_content))
    brought = and_(resources.c.content_digest.is_not(None), resources.c.run_key != run_key, known)
    return exists().where(is_staged(rows, datastore_id), brought)


def _brought_by(run_key: str, claimed: str, imported: str) -> Case[str | None]:
    """Return the column of what the run has sent, or has imported, of a row of ``resources``."""
    sent = resources.c.claimed_by == run_key, resources.c[claimed]
    return case(sent, (resources.c.run_key == run_key, resources.c[imported]), else_=null())


def _find_clock(rows: Table, datastore_id: str, run_key: str) -> Case[str | None]:
    """Return the clock of a staged resource: of the stopped content, or of that which the run sent or imported."""
    brought = select(_brought_by(run_key, "claimed_clock", "clock")).where(is_staged(rows, datastore_id))
    return case((rows.c.state == OpenState.STOPPED.value, rows.c.clock), else_=brought.scalar_subquery())


def _select_open_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows as `OPEN`, the first of each resource."""
    known = rows if "clock" in rows.columns else rows.with_columns(clock=None)  # as journals before clocks have it
    return select_schema(known, OPEN).unique(_RESOURCE, keep="first", maintain_order=True)


def keep_clocks(connection: Connection, forgotten: ColumnElement[bool], run_key: str, pipeline: str) -> None:
    """Note as doubtful the resources for which a condition holds, before they are deleted from ``resources``."""
    columns = {name: resources.c[name] for name in (*_KEY, "patient")} | {
        "state": literal(OpenState.DOUBTFUL.value),
        "content_digest": func.coalesce(resources.c.claimed_digest, resources.c.content_digest),
        "clock": func.coalesce(resources.c.claimed_clock, resources.c.clock),
        "run_key": literal(run_key),
        "pipeline": literal(pipeline),
        "arrival_id": func.coalesce(resources.c.claimed_arrival_id, resources.c.arrival_id),
    }
    gone = select(*(value.label(name) for name, value in columns.items())).where(forgotten).subquery()
    insert_missing(connection, open_resources, gone, _KEY)


class OpenResources(Store):
    """The ledger's methods about open resources; they ignore extra columns of the given frames."""

    @journaled()
    def note_open(self, datastore_id: str, run_key: str, rows: Iterable[pl.DataFrame], *, replace: bool = True) -> None:
        """Note resources that a run has not brought; the word of a later run about a resource stays.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run.
        rows
            `OPEN`, frame by frame; of several rows of a resource in a frame the first counts.
        replace
            Whether the run's earlier notes that are not repeated go.
        """
        with self._writing(scope(datastore_id)) as connection:
            pipeline = need_run(connection, run_key).pipeline
            staged = stage(connection, map(_select_open_rows, rows), OPEN, _RESOURCE)
            ours = open_resources.c.run_key == run_key
            if replace:
                again = exists(select(staged.c.resource_id).where(_is_of(staged, datastore_id)))
                connection.execute(delete(open_resources).where(ours, ~again))
            clock = _find_clock(staged, datastore_id, run_key)
            values: dict[str, Any] = {name: staged.c[name] for name in OPEN if name not in _RESOURCE}
            kept = and_(_IN_STORE, staged.c.state != OpenState.STOPPED.value), open_resources.c.clock
            values |= {"run_key": run_key, "pipeline": pipeline, "clock": func.coalesce(clock, case(kept))}
            not_later = or_(ours, _began(open_resources.c.run_key) <= _began(run_key))
            earlier = and_(_is_of(staged, datastore_id), not_later)
            connection.execute(update(open_resources).where(earlier).values(values))
            columns = (staged.c[name] for name in OPEN if name != "clock")
            missing = select(*columns, clock.label("clock")).where(~_brought_since(staged, datastore_id, run_key))
            known = {"datastore_id": datastore_id, "run_key": run_key, "pipeline": pipeline}
            insert_missing(connection, open_resources, missing.subquery(), _KEY, **known)

    @journaled()
    def close_open(self, datastore_id: str, run_key: str, outdated: Iterable[pl.DataFrame] = ()) -> int:
        """Delete the notes about resources that a run has brought, but those of its own.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run.
        outdated
            The resources of which the run has brought older content than was stopped (``resource_type``,
            ``resource_id``): notes about stopped contents stay.

        Returns
        -------
        int
            The number of deleted notes.
        """
        of_run = resources.c.run_key == run_key, resources.c.content_digest.is_not(None)
        brought = exists().where(is_same_resource(), *of_run)
        of_others = and_(open_resources.c.datastore_id == datastore_id, open_resources.c.run_key != run_key)
        with self._writing(scope(datastore_id)) as connection:
            frames = (select_schema(rows, _RESOURCES).unique() for rows in outdated)
            staged = stage(connection, frames, _RESOURCES, _RESOURCE)
            older = exists(select(staged.c.resource_id).where(_is_of(staged, datastore_id)))
            stays = and_(open_resources.c.state == OpenState.STOPPED.value, older)
            return connection.execute(delete(open_resources).where(of_others, brought, ~stays)).rowcount

    def stopped_contents(self, datastore_id: str, run_key: str, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the stopped contents of other runs, with clocks, of resources that a run has sent or imported.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run.
        keys
            The resources to look for: columns ``resource_type``, ``resource_id``.

        Returns
        -------
        polars.DataFrame
            `STOPPED_CONTENTS`.
        """
        noted = and_(open_resources.c.run_key != run_key, open_resources.c.clock.is_not(None))
        sent = or_(resources.c.claimed_by == run_key, resources.c.run_key == run_key)
        arrival_id = _brought_by(run_key, "claimed_arrival_id", "arrival_id")
        own = (*(open_resources.c[name] for name in ("resource_type", "resource_id", "content_digest", "clock")),)
        content = (
            _brought_by(run_key, "claimed_digest", "content_digest"),
            _brought_by(run_key, "claimed_clock", "clock"),
        )
        with self._reading() as connection:
            rows = stage(connection, select_schema(keys, _RESOURCES).unique(), _RESOURCES, _RESOURCE)
            pipeline = need_run(connection, run_key).pipeline
            file = and_(arrivals.c.arrival_id == arrival_id, arrivals.c.pipeline == pipeline)
            found = rows.join(open_resources, _is_of(rows, datastore_id)).join(resources, is_staged(rows, datastore_id))
            columns = *own, *content, *(arrivals.c[name] for name in ("bucket", "key", "last_modified"))
            statement = select(*columns).select_from(found.outerjoin(arrivals, file))
            is_stopped = open_resources.c.state == OpenState.STOPPED.value
            return fetch(connection, statement.where(is_stopped, noted, sent), STOPPED_CONTENTS).sort(_RESOURCE)

    def open_of_patients(self, datastore_id: str, patients: pl.Series, except_run: str | None = None) -> pl.DataFrame:
        """Return the open resources of patients, `FOUND_OPEN`, by patient.

        Parameters
        ----------
        datastore_id
            The data store.
        patients
            Patient/<id>, or file/<arrival id> for resources without a patient.
        except_run
            A run whose own notes are omitted.
        """
        with self._reading() as connection:
            rows = stage_values(connection, patients, "patient")
            in_store = and_(open_resources.c.patient == rows.c.patient, open_resources.c.datastore_id == datastore_id)
            statement = select(*(open_resources.c[name] for name in FOUND_OPEN)).join(rows, in_store)
            if except_run is not None:
                statement = statement.where(open_resources.c.run_key != except_run)
            return fetch(connection, statement, FOUND_OPEN).sort("patient", *_RESOURCE)
