"""Parked resources that wait for each other: they are due together, and a run takes them in together."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import Boolean, and_, exists, literal_column, select, tuple_, update

from airlock.ledger.frames import fetch, fetch_frames, forbid_plans, stage, stage_query
from airlock.ledger.tables import IS_DUE, parked
from airlock.records import schema

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from sqlalchemy import ColumnElement, Connection, FromClause, Table

    _Unit = tuple[str, int]

UNITS = schema({"arrival_id": pl.String, "line": pl.Int64})
NAMES = pl.Schema({"resource_type": pl.String, "resource_id": pl.String})
OWNED = schema(UNITS, {"pipeline": pl.String})
TARGET = dict.fromkeys(("waits_for_type", "waits_for_id"), pl.String)
_WAITS = schema(OWNED, NAMES, TARGET)
_WAYS = schema(UNITS, {"to_arrival_id": pl.String, "to_line": pl.Int64})
_AT_A_TIME = 10_000  # units from which circles are looked for
_MOST_IN_CIRCLE = 10_000  # further rows that are looked at then; a larger circle waits until its time ends
LARGEST_CIRCLE = _AT_A_TIME + _MOST_IN_CIRCLE  # units
_MOST_STEPS = 200  # from one resource that was parked earlier to the next; a longer circle waits until its time ends
BY_INDEX = ("hashjoin", "mergejoin")  # forbidden: few staged rows are looked up


def is_among(rows: FromClause, columns: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition that a parked row has the values of a staged one; both databases look up the staged rows."""
    names = list(columns)
    return tuple_(*(parked.c[name] for name in names)).in_(select(*(rows.c[name] for name in names)))


def is_named(rows: FromClause, datastore_id: str) -> ColumnElement[bool]:
    """Return the condition that a parked row is of a staged resource, for statements that join with the staged rows."""
    same = parked.c.resource_id == rows.c.resource_id, parked.c.resource_type == rows.c.resource_type
    return and_(parked.c.datastore_id == datastore_id, *same)


def is_due(rows: str = "parked") -> ColumnElement[bool]:
    """Return the condition that a parked row is due, as the condition of the index has it."""
    return literal_column(f"{rows}.{IS_DUE}", Boolean)


def is_owned(rows: FromClause) -> ColumnElement[bool]:
    """Return the condition that a parked row is of a staged unit (`OWNED`)."""
    return and_(*(parked.c[name] == rows.c[name] for name in OWNED))


def mark_circles(connection: Connection, datastore_id: str, units: Table) -> None:
    """Let those be due that wait for nothing but each other: no release would ever open such a circle.

    A circle is new when its last resource is parked, or when the last other one that a resource of it waits for has
    come. So it goes through one of the staged units (`OWNED`). It is looked for among the resources of one pipeline,
    since one run has to take in all of it.
    """
    other = parked.alias("other")
    same = other.c.waits_for_id == parked.c.resource_id, other.c.waits_for_type == parked.c.resource_type
    waited_for = exists().where(other.c.datastore_id == datastore_id, *same)
    query = select(*(parked.c[name] for name in OWNED)).join_from(units, parked, is_owned(units))
    with forbid_plans(connection, *BY_INDEX):
        waiting = query.where(parked.c.due.is_(None), waited_for).distinct()
        new = stage_query(connection, waiting, OWNED)
    slices = (part for frame in fetch_frames(connection, select(new), OWNED) for part in frame.iter_slices(_AT_A_TIME))
    for part in slices:
        circle = _find_circle(connection, datastore_id, part)
        if circle.height:
            rows = stage(connection, circle, OWNED, ["arrival_id"])
            connection.execute(update(parked).where(is_among(rows, OWNED)).values(due=1))


def _find_circle(connection: Connection, datastore_id: str, units: pl.DataFrame) -> pl.DataFrame:
    """Return the units from which every way leads to each other: none of them waits for anything else."""

    def fetch_waits(rows: Table, same: ColumnElement[bool]) -> pl.DataFrame:
        columns = select(*(parked.c[name] for name in _WAITS)).join_from(rows, parked, same)
        with forbid_plans(connection, *BY_INDEX):
            return fetch(connection, columns.where(parked.c.due.is_(None)), _WAITS)

    rows = stage(connection, units, OWNED, ["arrival_id"])
    known = fetch_waits(rows, is_owned(rows))
    named = schema({"pipeline": pl.String}, NAMES)
    asked = named.to_frame()
    for _ in range(_MOST_STEPS):
        if known.height > _MOST_IN_CIRCLE + units.height:
            break
        targets = known.select("pipeline", resource_type="waits_for_type", resource_id="waits_for_id").unique()
        targets = targets.join(asked, on=list(named), how="anti")
        if targets.is_empty():
            break
        asked = pl.concat([asked, targets])
        names = stage(connection, targets, named, ["resource_id"])
        found = fetch_waits(names, and_(is_named(names, datastore_id), parked.c.pipeline == names.c.pipeline))
        known = pl.concat([known, found]).unique()
    return _drop_unsupported(known).select([*OWNED]).unique()


def _drop_unsupported(known: pl.DataFrame) -> pl.DataFrame:
    """Return rows (`_WAITS`) without the units that wait for one that is not among them."""
    own, target, unit = ["pipeline", *NAMES], ["pipeline", *TARGET], [*OWNED]
    while True:
        lacking = known.join(known.select(own), left_on=target, right_on=own, how="anti").select(unit)
        if lacking.is_empty():
            return known
        known = known.join(lacking, on=unit, how="anti")


def choose_whole(connection: Connection, pipeline: str, units: pl.DataFrame, most: int) -> pl.DataFrame:
    """Return the first of these units, each with the due ones that it waits for, also through others.

    What a run takes in without the rest of its circle would only wait again, and come first in each further run.

    Parameters
    ----------
    connection, pipeline
        The pipeline that has parked the units.
    units
        `UNITS`, in the order in which they are to come in.
    most
        The greatest number of units. One that waits for more than have room is left out.
    """
    chosen: dict[_Unit, None] = {}
    for part in units.iter_slices(_AT_A_TIME):
        if len(chosen) >= most:
            break
        awaited = _find_awaited(connection, pipeline, part)
        for unit in part.select([*UNITS]).iter_rows():
            chosen.update(dict.fromkeys(_find_whole(unit, awaited, chosen, most - len(chosen))))
    return pl.DataFrame([*chosen], schema=UNITS, orient="row")


def _find_whole(
    unit: _Unit, awaited: Mapping[_Unit, Iterable[_Unit]], chosen: Container[_Unit], room: int
) -> list[_Unit]:
    """Return a unit and all that it waits for, less what is chosen; none if there is no room for them."""
    found: dict[_Unit, None] = {}
    ahead = [unit]
    while ahead and len(found) <= room:
        one = ahead.pop()
        if one not in found and one not in chosen:
            found[one] = None
            ahead.extend(awaited.get(one, ()))
    return [*found] if len(found) <= room else []


def _find_awaited(connection: Connection, pipeline: str, units: pl.DataFrame) -> dict[_Unit, list[_Unit]]:
    """Return the due units that each of these waits for and that no run has taken in, and those that these wait for."""
    awaited: dict[_Unit, list[_Unit]] = defaultdict(list)
    seen = last = units.select([*UNITS])
    for _ in range(_MOST_STEPS):
        ways = _fetch_ways(connection, pipeline, last)
        for *unit, arrival_id, line in ways.iter_rows():
            awaited[tuple(unit)].append((arrival_id, line))
        last = ways.select(arrival_id="to_arrival_id", line="to_line").unique().join(seen, on=[*UNITS], how="anti")
        if last.is_empty():
            break
        seen = pl.concat([seen, last])
    return awaited


def _fetch_ways(connection: Connection, pipeline: str, units: pl.DataFrame) -> pl.DataFrame:
    rows = stage(connection, units.with_columns(pipeline=pl.lit(pipeline)), OWNED, ["arrival_id"])
    other = parked.alias("other")
    same = (other.c[name] == parked.c[name] for name in ("datastore_id", "pipeline"))
    named = other.c.resource_id == parked.c.waits_for_id, other.c.resource_type == parked.c.waits_for_type
    to = other.c.arrival_id.label("to_arrival_id"), other.c.line.label("to_line")
    columns = select(parked.c.arrival_id, parked.c.line, *to).join_from(rows, parked, is_owned(rows))
    free = other.c.taken_as.is_(None), is_due("other")
    with forbid_plans(connection, *BY_INDEX):
        return fetch(connection, columns.join(other, and_(*same, *named)).where(*free).distinct(), _WAYS)
