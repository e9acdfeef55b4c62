"""FHIR resources that wait for others: they are parked until these are in the data store, whatever run brings them.

A parked resource is named by the arrival and line that brought it first, and has a row for each resource that it waits
for. When one of these is recorded as imported, the row goes; the last row stays and becomes ``due``. The next run of
the pipeline takes in what is due as lines of an arrival of its own (``taken_as``). A resource leaves in the transaction
that settles this arrival, or is parked again. So no question reads all rows.

All writers of the table hold the lock on the resources of the data store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, delete, exists, func, literal, or_, select, text, update

from airlock.ledger.arrivals import is_settled
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import (
    count_rows,
    fetch,
    forbid_plans,
    index_staged,
    insert_missing,
    stage,
    stage_query,
    stage_values,
)
from airlock.ledger.journal import journaled
from airlock.ledger.open_resources import scope
from airlock.ledger.parked_circles import (
    BY_INDEX,
    LARGEST_CIRCLE,
    NAMES,
    OWNED,
    TARGET,
    UNITS,
    choose_whole,
    is_among,
    is_due,
    is_named,
    mark_circles,
)
from airlock.ledger.runs import need_run
from airlock.ledger.tables import arrivals, parked, resources, runs, words
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Exists, FromClause, Table

_FACTS = schema(
    dict.fromkeys(("resource_type", "resource_id", "content_digest", "clock"), pl.String),
    dict.fromkeys(("patient", "site", "body_uri"), pl.String),
    {"parked_at": TIMESTAMP, "parked_until": TIMESTAMP},
)
# A row per unit and resource that it waits for. ``held_as`` is the arrival of the run that parks it: the unit's own, or
# the one as which the run has taken it in. A unit that waits for itself, or for `UNANSWERED`, is due at once. Without a
# site it has that of its arrival.
PARKED = schema(UNITS, dict.fromkeys(("waits_for_type", "waits_for_id", "held_as"), pl.String), _FACTS)
DUE = schema(UNITS, _FACTS, {"bucket": pl.String, "key": pl.String})  # of the arrival that brought it first
TAKEN = schema(UNITS, {"taken_as": pl.String})
_CONTENT = schema(NAMES, {"content_digest": pl.String})
COPIES = schema(  # parked contents, by the arrival and line that brought each of them first
    {"origin_id": pl.String, "origin_line": pl.Int64}, _CONTENT, {"known_clock": pl.String, "body_uri": pl.String}
)
CONFIRMED = schema(_CONTENT, dict.fromkeys(("clock", "known_clock"), pl.String))  # a newer file has the same content
SPARE = schema({"body_uri": pl.String, "is_settled": pl.Boolean})  # whether the run that copied it has settled its file
FOUND_PARKED = schema(
    UNITS,
    dict.fromkeys(
        ("pipeline", "datastore_id", "resource_type", "resource_id", "waits_for_type", "waits_for_id", "run_key"),
        pl.String,
    ),
    {"due": pl.Int64, "parked_at": TIMESTAMP, "parked_until": TIMESTAMP},
)
COUNTED = schema(
    dict.fromkeys(("pipeline", "resource_type", "waits_for_type"), pl.String),
    {"resources": pl.Int64, "since": TIMESTAMP},
)
MOST_COUNTED = 100_000  # rows
UNANSWERED = "?"  # in the place of an id: of the resource that a conditional reference means and that is not there yet
_KEYS = schema(OWNED, TARGET)
_UNIT = list(UNITS)
_BODIES = schema(dict.fromkeys(("arrival_id", "body_uri"), pl.String))
_ROUNDS = 50  # from what is due to what waits for it, and so on; the rest is due when these are released


class ParkedTakenError(LedgerError):
    """Another run has taken in one of the resources since: choose anew."""


def _waits_for(rows: FromClause, datastore_id: str | ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that a parked row waits for a staged resource."""
    same = parked.c.waits_for_id == rows.c.resource_id, parked.c.waits_for_type == rows.c.resource_type
    return and_(parked.c.datastore_id == datastore_id, *same)


def _is_asked_again(rows: FromClause = parked) -> ColumnElement[bool]:
    """Return the condition that a unit only has to be looked at again: what it waits for has no id, or is a turn."""
    itself = rows.c.waits_for_type == rows.c.resource_type, rows.c.waits_for_id == rows.c.resource_id
    return or_(and_(*itself), rows.c.waits_for_id == UNANSWERED)


def mark_released(connection: Connection, datastore_id: str, rows: FromClause) -> None:
    """Note that staged resources are in a data store: what waited only for them is due.

    Parameters
    ----------
    connection, datastore_id
        In a transaction that has locked the resources of this data store.
    rows
        Staged rows with ``resource_type`` and ``resource_id``.
    """
    if not connection.scalar(select(exists(select(parked.c.line)))):
        return
    keys = select(*(parked.c[name] for name in _KEYS)).join_from(rows, parked, _waits_for(rows, datastore_id))
    with forbid_plans(connection, *BY_INDEX):
        hit = stage_query(connection, keys.where(parked.c.due.is_(None)).distinct(), _KEYS, ["arrival_id"])
        if not count_rows(connection, hit):
            return
        connection.execute(update(parked).where(is_among(hit, _KEYS)).values(due=1))
        waits_on = _has_other_row(lambda other: other.c.due.is_(None))
        connection.execute(delete(parked).where(is_among(hit, _KEYS), waits_on))
    mark_circles(connection, datastore_id, hit)


def _has_other_row(condition: Any) -> Exists:
    """Return the condition that a parked unit has a row for which a condition holds."""
    other = parked.alias("other")
    same = (other.c[name] == parked.c[name] for name in OWNED)
    return exists().where(*same, condition(other))


def fetch_parked(connection: Connection, name: str, ids: Table) -> pl.DataFrame:
    """Return the parked resources of this name (``Type/id``) and those that staged arrivals brought: `FOUND_PARKED`.

    There is a row for each resource that one waits for.
    """
    kind, _, resource_id = name.partition("/")
    columns = select(*(parked.c[name] for name in FOUND_PARKED))
    named = columns.where(parked.c.resource_id == resource_id, parked.c.resource_type == kind)
    both = columns.join(ids, ids.c.arrival_id == parked.c.arrival_id), named
    found = pl.concat([fetch(connection, one, FOUND_PARKED) for one in both])
    return found.unique().sort("resource_type", "resource_id", "parked_at", "waits_for_type", "waits_for_id")


def is_coming(rows: FromClause, datastore_id: str, pipeline: str, run_key: str) -> Exists:
    """Return the condition that a staged resource waits, and that a pipeline's next run or another run takes it in."""
    taken = arrivals.alias("taken")
    same = taken.c.arrival_id == parked.c.taken_as, taken.c.pipeline == parked.c.pipeline
    is_own = exists().where(*same, taken.c.run_key == run_key)
    is_next = and_(is_due(), parked.c.pipeline == pipeline)
    return exists().where(is_named(rows, datastore_id), or_(is_next, parked.c.taken_as.is_not(None)), ~is_own)


def is_taken_object(arrival_id: ColumnElement[str]) -> Exists:
    """Return the condition that an arrival is one as which a run has taken in parked resources."""
    return exists().where(parked.c.taken_as == arrival_id)


def give_back_taken(connection: Connection, rows: FromClause) -> None:
    """Let the next run take in what was taken in as the staged arrivals (``arrival_id``)."""
    taken = parked.c.taken_as.in_(select(rows.c.arrival_id))
    with forbid_plans(connection, *BY_INDEX):
        connection.execute(update(parked).where(taken).values(taken_as=None))


def find_taken_stores(connection: Connection, pipeline: str, run_key: str) -> list[str]:
    """Return the data stores of the parked resources that a run has taken in."""
    same = arrivals.c.arrival_id == parked.c.taken_as, arrivals.c.pipeline == parked.c.pipeline
    of_run = arrivals.c.run_key == run_key, arrivals.c.pipeline == pipeline
    stores = select(parked.c.datastore_id).join_from(arrivals, parked, and_(*same)).where(*of_run).distinct()
    return list(connection.scalars(stores))


class Parked(Store):
    """The ledger's methods about parked resources; they ignore extra columns of the given frames."""

    @journaled()
    def settle_parked(
        self,
        datastore_id: str,
        pipeline: str,
        run_key: str,
        rows: Iterable[pl.DataFrame],
        *,
        read: pl.Series,
        unread: pl.Series,
    ) -> None:
        """Park resources, and end the stay of those that a run has taken in; call it before `settle`.

        What is of an arrival that was settled before is left out: an audit that is repeated parks nothing again that
        has left since.

        Parameters
        ----------
        datastore_id, pipeline, run_key
            The data store, and the run.
        rows
            `PARKED`, frame by frame: the resources that wait from now on, or again.
        read, unread
            The ids of the arrivals as which the run has taken in parked resources. Those of the first leave, unless
            they are among the rows; those of the second, which could not be read, are due again.
        """
        with self._writing(scope(datastore_id)) as connection:
            need_run(connection, run_key, pipeline)
            staged = stage(connection, rows, PARKED, ["arrival_id"])
            said = words.c.arrival_id == staged.c.held_as, words.c.pipeline == pipeline
            connection.execute(delete(staged).where(exists().where(*said)))
            ended = select(stage_values(connection, read, "taken_as").c.taken_as)
            with forbid_plans(connection, *BY_INDEX):
                connection.execute(delete(parked).where(parked.c.taken_as.in_(ended)))
            give_back_taken(connection, stage_values(connection, unread, "arrival_id"))
            if count_rows(connection, staged):
                _insert(connection, datastore_id, pipeline, run_key, staged)
                _mark_known(connection, datastore_id, staged)
                mark_circles(connection, datastore_id, _stage_owned(connection, pipeline, staged))

    def find_due(self, datastore_id: str, pipeline: str, most: int, now: datetime) -> pl.DataFrame:
        """Return what a run is to take in, `DUE`: what has waited too long, what is due, and what waits only for that.

        Of each that comes first whose time ends first; but what was released comes before what is only asked about
        again, which may be asked about for long. With each comes what it waits for, if that is due: a circle is not
        parted. What was parked for another data store is not due: the pipeline does not import into that any more.

        Parameters
        ----------
        datastore_id, pipeline
            The data store, and the pipeline that has parked it.
        most
            The greatest number of resources.
        now
            The database's time.
        """
        free = parked.c.pipeline == pipeline, parked.c.taken_as.is_(None)
        units = select(*(parked.c[name] for name in UNITS)).where(*free).order_by(parked.c.parked_until)
        units = units.limit(most + LARGEST_CIRCLE)  # a circle for which there is no room keeps nothing else out
        due = units.where(is_due(), parked.c.datastore_id == datastore_id)
        with self._reading() as connection:
            ended = fetch(connection, units.where(parked.c.parked_until <= now), UNITS)
            first = pl.concat([ended, fetch(connection, due.where(~_is_asked_again()), UNITS)])
            if first.height < most:
                first = pl.concat([first, fetch(connection, due.where(_is_asked_again()), UNITS)])
            chosen = choose_whole(connection, pipeline, first.unique(maintain_order=True), most)
            last = ready = chosen.join(ended, on=_UNIT, how="anti", maintain_order="left")
            for _ in range(_ROUNDS):
                if last.is_empty() or chosen.height >= most:
                    break
                last = _find_dependents(connection, pipeline, ready, most - chosen.height)
                last = last.join(chosen, on=_UNIT, how="anti")
                chosen, ready = pl.concat([chosen, last]), pl.concat([ready, last])
            return _describe(connection, pipeline, chosen)

    @journaled()
    def take_parked(self, datastore_id: str, pipeline: str, run_key: str, units: pl.DataFrame) -> None:
        """Note that a run takes in parked resources; call it in the transaction that claims the arrivals for it.

        Parameters
        ----------
        datastore_id, pipeline, run_key
            The data store, and the run.
        units
            `TAKEN`.

        Raises
        ------
        ParkedTakenError
            If one of them was taken in by another run since, or has left. Nothing is written.
        """
        with self._writing(scope(datastore_id)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, units, TAKEN, ["arrival_id"])
            same = and_(*(parked.c[name] == rows.c[name] for name in UNITS), parked.c.pipeline == pipeline)
            with forbid_plans(connection, *BY_INDEX):
                free = select(*(parked.c[name] for name in UNITS)).join_from(rows, parked, same)
                found = free.where(parked.c.taken_as.is_(None)).distinct().subquery()
                if count_rows(connection, found) < units.height:
                    raise ParkedTakenError(f"another run has taken in some of the {units.height} parked resources")
                connection.execute(update(parked).where(same).values(taken_as=rows.c.taken_as))

    def find_copies(self, datastore_id: str, pipeline: str, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the contents of these resources (``resource_type``, ``resource_id``) that are parked, `COPIES`."""
        content = *(parked.c[name] for name in _CONTENT), parked.c.clock, parked.c.body_uri
        with self._reading() as connection:
            rows = stage(connection, keys.select(NAMES.names()).unique(), NAMES, ["resource_id"])
            named = and_(is_named(rows, datastore_id), parked.c.pipeline == pipeline)
            found = select(parked.c.arrival_id, parked.c.line, *content).join_from(rows, parked, named).distinct()
            with forbid_plans(connection, *BY_INDEX):
                return fetch(connection, found, COPIES)

    @journaled()
    def confirm_parked(self, datastore_id: str, pipeline: str, rows: pl.DataFrame) -> int:
        """Advance the clocks of contents that wait and that a newer file has brought unchanged; return their number.

        Parameters
        ----------
        datastore_id, pipeline
            The data store, and the pipeline that has parked them.
        rows
            `CONFIRMED`. One that has another clock than ``known_clock`` by now stays as it is.
        """
        with self._writing(scope(datastore_id)) as connection:
            staged = stage(connection, rows.unique(["resource_type", "resource_id"]), CONFIRMED, ["resource_id"])
            same = parked.c.content_digest == staged.c.content_digest, parked.c.clock == staged.c.known_clock
            waits = and_(is_named(staged, datastore_id), parked.c.pipeline == pipeline, *same)
            with forbid_plans(connection, *BY_INDEX):
                return connection.execute(update(parked).where(waits).values(clock=staged.c.clock)).rowcount

    def count_parked(self, pipeline: str | None = None, most: int = MOST_COUNTED) -> pl.DataFrame:
        """Count the parked resources, of all pipelines or one, by type and the type that they wait for: `COUNTED`.

        A resource that waits for two types counts to both. At most *most* rows of a pipeline count: those whose time
        ends first.
        """
        found = COUNTED.to_frame()
        with self._reading() as connection:
            names = [pipeline] if pipeline else list(connection.scalars(select(runs.c.pipeline).distinct()))
            for name in names:
                own = select(parked).where(parked.c.pipeline == name).order_by(parked.c.parked_until)
                first = own.limit(most).subquery()
                groups = first.c.pipeline, first.c.resource_type, first.c.waits_for_type
                since = func.min(first.c.parked_at, type_=parked.c.parked_at.type)
                found.extend(fetch(connection, select(*groups, func.count(), since).group_by(*groups), COUNTED))
        return found.sort("resources", "resource_type", "waits_for_type", descending=[True, False, False])

    def find_spare_bodies(self, uris: pl.Series) -> pl.DataFrame:
        """Return the bodies that no parked resource has and that no unsettled run may have copied, `SPARE`.

        One of an arrival that the ledger does not know is of a run that was given back, or of a ledger that was lost.

        Parameters
        ----------
        uris
            Addresses that end in ``<arrival id>-<line>.json``, of the arrival as which a run has parked a resource; no
            other address is returned.
        """
        given = pl.DataFrame({"arrival_id": uris.str.extract(r"/([^/-]+)-\d+\.json$"), "body_uri": uris}).drop_nulls()
        with self._reading() as connection:
            rows = index_staged(connection, stage(connection, given, _BODIES, ["arrival_id"]), ["body_uri"])
            file = arrivals.c.arrival_id == rows.c.arrival_id
            of_files = select(rows.c.body_uri).join_from(rows, arrivals, file)
            uri, one = pl.Schema({"body_uri": pl.String}), select(rows.c.body_uri)
            with forbid_plans(connection, *BY_INDEX):  # the rows last: the transaction that settles a file writes them
                settled = fetch(connection, of_files.where(is_settled(arrivals)), uri)
                unsettled = fetch(connection, of_files.where(~is_settled(arrivals)), uri)
                named = fetch(connection, one.join_from(rows, parked, parked.c.body_uri == rows.c.body_uri), uri)
        spare = given.join(pl.concat([unsettled, named]), on="body_uri", how="anti", maintain_order="left")
        return spare.select("body_uri", is_settled=pl.col("body_uri").is_in(settled["body_uri"].implode()))


def _insert(connection: Connection, datastore_id: str, pipeline: str, run_key: str, staged: Table) -> None:
    """Insert the staged rows in place of the earlier ones of their units."""
    connection.execute(delete(parked).where(is_among(staged, _UNIT), parked.c.pipeline == pipeline))
    held = and_(
        arrivals.c.arrival_id == staged.c.held_as, arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key
    )
    values: dict[str, Any] = {name: staged.c[name] for name in PARKED if name != "held_as"}
    values["site"] = func.coalesce(staged.c.site, arrivals.c.site)
    values["due"] = case((_is_asked_again(staged), 1))
    rows = select(*(value.label(name) for name, value in values.items())).join_from(staged, arrivals, held).subquery()
    constants = {"datastore_id": datastore_id, "pipeline": pipeline, "run_key": run_key}
    insert_missing(connection, parked, rows, list(_KEYS), **constants)


def _mark_known(connection: Connection, datastore_id: str, staged: Table) -> None:
    """Note those of the staged rows' targets that have come since validate has looked."""
    same = resources.c.resource_id == staged.c.waits_for_id, resources.c.resource_type == staged.c.waits_for_type
    there = and_(resources.c.datastore_id == datastore_id, resources.c.content_digest.is_not(None), *same)
    query = select(staged.c.waits_for_type, staged.c.waits_for_id).join_from(staged, resources, there).distinct()
    with forbid_plans(connection, *BY_INDEX):
        known = stage_query(connection, query, NAMES, ["resource_id"])
    mark_released(connection, datastore_id, known)


def _stage_owned(connection: Connection, pipeline: str, staged: Table) -> Table:
    query = select(staged.c.arrival_id, staged.c.line, literal(pipeline)).distinct()
    return stage_query(connection, query, OWNED, ["arrival_id"])


def _find_dependents(connection: Connection, pipeline: str, chosen: pl.DataFrame, most: int) -> pl.DataFrame:
    """Return units that wait for nothing but chosen ones, and are not chosen themselves."""
    rows = stage(connection, chosen, UNITS, ["arrival_id"])
    same = and_(*(parked.c[name] == rows.c[name] for name in UNITS), parked.c.pipeline == pipeline)
    own = parked.c.resource_type, parked.c.resource_id, parked.c.datastore_id
    columns = schema(NAMES, {"datastore_id": pl.String})
    with forbid_plans(connection, *BY_INDEX):
        names = stage_query(connection, select(*own).join_from(rows, parked, same).distinct(), columns, ["resource_id"])
        free = parked.c.pipeline == pipeline, parked.c.taken_as.is_(None), ~_is_chosen(rows)
        units = select(*(parked.c[name] for name in UNITS)).join_from(
            names, parked, _waits_for(names, names.c.datastore_id)
        )
        lacks = _has_other_row(lambda other: and_(other.c.due.is_(None), ~_has_name(names, other)))
        return fetch(connection, units.where(*free, ~lacks).distinct().limit(most), UNITS)


def _is_chosen(rows: Table) -> Exists:
    return exists(select(text("1")).select_from(rows).where(*(parked.c[name] == rows.c[name] for name in UNITS)))


def _has_name(names: Table, other: FromClause) -> Exists:
    """Return the condition that a parked row waits for one of these resources."""
    named = names.alias("named")
    same = named.c.resource_id == other.c.waits_for_id, named.c.resource_type == other.c.waits_for_type
    return exists().where(named.c.datastore_id == other.c.datastore_id, *same)


def _describe(connection: Connection, pipeline: str, units: pl.DataFrame) -> pl.DataFrame:
    """Return units as `DUE`, in a fixed order."""
    rows = stage(connection, units, UNITS, ["arrival_id"])
    same = and_(*(parked.c[name] == rows.c[name] for name in UNITS), parked.c.pipeline == pipeline)
    file = and_(arrivals.c.arrival_id == parked.c.arrival_id, arrivals.c.pipeline == parked.c.pipeline)
    columns: dict[str, Any] = {**dict(parked.c.items()), "bucket": arrivals.c.bucket, "key": arrivals.c.key}
    found = select(*(columns[name] for name in DUE)).select_from(rows.join(parked, same).outerjoin(arrivals, file))
    with forbid_plans(connection, *BY_INDEX):
        return fetch(connection, found.distinct(), DUE).unique(_UNIT).sort(_UNIT)
