"""The arrivals: which run holds each one.

The row of an arrival is its claim: it has the facts about the object, names the run that holds it, and never changes. A
run holds its arrivals after they are settled too, so that a cleared task finds the same delivery.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import exists, func, insert, literal, null, select, union_all, update

from airlock.ledger import clock
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import count_rows, fetch_frames, forbid_plans, stage, stage_query
from airlock.ledger.generations import find_generations, record_contents
from airlock.ledger.journal import Taken, encode
from airlock.ledger.owed import take_owed
from airlock.ledger.runs import AUDITED, need_run
from airlock.ledger.tables import arrivals, runs, words
from airlock.records import ARRIVALS, schema, study_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, FromClause, Select, Table

LISTED = schema(ARRIVALS, {"site": pl.String})
_IDS = pl.Schema({"arrival_id": pl.String})
_UNKNOWN = schema(_IDS, {"listed": pl.Int64})  # its last row has no id, and the number of ids listed


def scope(pipeline: str) -> str:
    """Return the lock scope of writers to a pipeline's arrivals; see `database.writing`."""
    return f"arrivals of {pipeline}"


@dataclass(frozen=True)
class Claim:
    """Listed arrivals that a run could not claim; `Arrivals.held_by` returns those that it holds."""

    settled: int  # settled by another run
    claimed_elsewhere: int  # held by another run that has not settled them


@dataclass(frozen=True)
class Unclaimed(Claim):
    """Arrivals that a run would hold if it claimed a listing now."""

    arrivals: int
    bytes: int
    frames: Iterator[pl.DataFrame]  # of `records.ARRIVALS`, by key


def _order_by_key(connection: Connection, rows: FromClause) -> list[ColumnElement[str]]:
    """Return columns to order by, with keys compared byte by byte whatever the database's collation."""
    order: list[ColumnElement[str]] = [rows.c[name] for name in ("bucket", "key", "arrival_id")]
    return [column.collate("C") for column in order] if connection.dialect.name == "postgresql" else order


def _select_held(connection: Connection, pipeline: str, run_key: str, carried: bool | None) -> Select[Any]:
    """Return the query for the arrivals that a run holds, by key; of one kind only if *carried* is given."""
    of_run = [arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key]
    if carried is not None:
        of_run.append(arrivals.c.carries.is_not(None) if carried else arrivals.c.carries.is_(None))
    columns = (arrivals.c[name] for name in ARRIVALS)
    return select(*columns).where(*of_run).order_by(*_order_by_key(connection, arrivals))


def need_held(connection: Connection, pipeline: str, run_key: str, rows: FromClause) -> None:
    """Check that the run holds every arrival that the staged rows name by ``arrival_id``.

    Raises
    ------
    LedgerError
        If it does not hold some of them; the text has their number.
    """
    held = exists().where(
        arrivals.c.pipeline == pipeline, arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.run_key == run_key
    )
    not_held = connection.execute(select(func.count()).select_from(rows).where(~held)).scalar_one()
    if not_held:
        raise LedgerError(f"run {run_key!r} does not hold {not_held} of these arrivals: clear its buffer task")


def _hash_uids(uids: pl.Series) -> pl.Series:
    keys = {uid: study_key(uid) for uid in uids.unique().drop_nulls()}
    return uids.replace_strict(keys, default=None, return_dtype=pl.String)


def study_key_of(column: str) -> pl.Expr:
    """Return the study keys of a column of Study Instance UIDs, null where the UID is null."""
    return pl.col(column).map_batches(_hash_uids, return_dtype=pl.String).alias("study_key")


def _shape_listing(frame: pl.DataFrame) -> pl.DataFrame:
    return frame if "site" in frame.columns else frame.with_columns(site=pl.lit(""))


def _frames(listing: pl.DataFrame | Iterable[pl.DataFrame]) -> Iterable[pl.DataFrame]:
    return map(_shape_listing, (listing,) if isinstance(listing, pl.DataFrame) else listing)


class Arrivals(Store):
    """The ledger's methods about arrivals."""

    def claim(
        self,
        pipeline: str,
        run_key: str,
        listing: pl.DataFrame | Iterable[pl.DataFrame],
        listed_until: datetime | None = None,
        owed_due: datetime | None = None,
    ) -> Claim:
        """Claim for a run all listed arrivals that no run holds; of two runs at the same time only one gets an arrival.

        Objects that are owed, and contents that return under their key, are claimed as new arrivals of their own. What
        was quarantined or failed under the same key is superseded by them.

        Parameters
        ----------
        pipeline, run_key
            An open run.
        listing
            `LISTED`, or `records.ARRIVALS` for objects without a site; in one frame or frame by frame. The same arrival
            twice counts once. Other writers wait while the ledger waits for a frame: prepare the frames before the
            call.
        listed_until
            The time up to which the listing has all objects, aware.
        owed_due
            Objects that are owed come again if their next attempt is at or before this time; now without one.

        Raises
        ------
        LedgerError
            If the run is not open. Nothing is claimed.
        """
        with clock.note_times() as times:
            claim = self._claim_listing(pipeline, run_key, listing, listed_until, owed_due)
        entry = self.begin_entry()
        if entry is not None:  # what the run holds now, not the whole listing; after the commit, without locks
            held = Taken(entry, self._held_with_sites(pipeline, run_key))
            facts = {"listed_until": encode(listed_until), "owed_due": encode(owed_due), "listing": held.read_all()}
            entry.add_call("claim", {"pipeline": pipeline, "run_key": run_key} | facts, times)
            self.end_entry(entry)
        return claim

    def _claim_listing(
        self,
        pipeline: str,
        run_key: str,
        listing: pl.DataFrame | Iterable[pl.DataFrame],
        listed_until: datetime | None,
        owed_due: datetime | None,
    ) -> Claim:
        now = clock.now()
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage_listing(connection, pipeline, listing, owed_due or now)
            new, elsewhere = _stage_new(connection, pipeline, run_key, rows)
            record_contents(connection, pipeline, new)
            values = {name: new.c[name] for name in LISTED} | {
                "pipeline": literal(pipeline),
                "run_key": literal(run_key),
                "claimed_at": literal(now, arrivals.c.claimed_at.type),
            }
            source = select(*values.values()).order_by(new.c.arrival_id)  # an index takes sorted rows fastest
            connection.execute(insert(arrivals).from_select(list(values), source))
            take_owed(connection, pipeline, run_key, new)
            if listed_until is not None:
                own = runs.c.run_key == run_key
                connection.execute(update(runs).where(own).values(listed_until=listed_until))
            return elsewhere

    def _held_with_sites(self, pipeline: str, run_key: str) -> Iterator[pl.DataFrame]:
        """Yield the arrivals that a run holds, as `LISTED`."""
        statement = select(*(arrivals.c[name] for name in LISTED)).where(
            arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key
        )
        with self._reading() as connection:
            yield from fetch_frames(connection, statement, LISTED)

    @contextmanager
    def find_unclaimed(self, pipeline: str, listing: pl.DataFrame | Iterable[pl.DataFrame]) -> Iterator[Unclaimed]:
        """Find the arrivals that `claim` would claim for a new run, without claiming; read the frames within the block.

        Parameters
        ----------
        pipeline
            The pipeline of that run.
        listing
            As in `claim`.
        """
        with self._reading() as connection:
            rows = stage_listing(connection, pipeline, listing, clock.now())
            new, elsewhere = _stage_new(connection, pipeline, "", rows)
            total = select(func.count(), func.coalesce(func.sum(new.c.size), 0)).select_from(new)
            number, size = connection.execute(total).one()
            columns = select(*(new.c[name] for name in ARRIVALS)).order_by(*_order_by_key(connection, new))
            frames = fetch_frames(connection, columns, ARRIVALS)
            yield Unclaimed(elsewhere.settled, elsewhere.claimed_elsewhere, int(number), int(size), frames)

    def held_by(self, pipeline: str, run_key: str) -> pl.DataFrame:
        """Return all arrivals that a run holds, settled or not, as `records.ARRIVALS` sorted by key."""
        return pl.concat([ARRIVALS.to_frame(), *self.held_frames(pipeline, run_key)])

    def held_frames(self, pipeline: str, run_key: str, *, carried: bool | None = None) -> Iterator[pl.DataFrame]:
        """Yield the arrivals that a run holds, settled or not, frame by frame as `held_by`; no frame if it holds none.

        With *carried* true only those that a redrive carries on without an import, with false only the others.
        """
        with self._reading() as connection:
            rows = fetch_frames(connection, _select_held(connection, pipeline, run_key, carried), ARRIVALS)
            if connection.dialect.name == "sqlite":
                yield from rows
        yield from rows  # after the transaction: the caller may be slow

    def held_total(self, pipeline: str, run_key: str) -> tuple[int, int]:
        """Return the number of arrivals that a run holds, settled or not, and the sum of their bytes."""
        statement = select(func.count(), func.coalesce(func.sum(arrivals.c.size), 0)).where(
            arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key
        )
        with self._reading() as connection:
            number, size = connection.execute(statement).one()
        return int(number), int(size)

    def held_ids(self, pipeline: str, run_key: str) -> Iterator[pl.DataFrame]:
        """Yield the ``arrival_id`` of all arrivals that a run holds, settled or not, frame by frame."""
        statement = select(arrivals.c.arrival_id).where(arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key)
        with self._reading() as connection:
            yield from fetch_frames(connection, statement, pl.Schema({"arrival_id": pl.String}))


def stage_listing(
    connection: Connection, pipeline: str, listing: pl.DataFrame | Iterable[pl.DataFrame], due: datetime
) -> Table:
    """Stage a listing, with the ids of the generations that its objects are now."""
    rows = stage(connection, _frames(listing), LISTED)
    generations = find_generations(connection, pipeline, rows, due)
    if not generations.is_empty():
        changes = stage(connection, generations, generations.schema, ["arrival_id"])
        is_one = rows.c.arrival_id == changes.c.arrival_id
        connection.execute(update(rows).where(is_one).values(arrival_id=changes.c.next_id))
    return rows


def stage_unclaimed(connection: Connection, pipeline: str, rows: Table) -> tuple[Table, int]:
    """Stage the listed objects that no run has claimed, one per arrival; return them, and the number listed.

    Nearly all of a listing may be known, so only its ids are sorted, and they are looked up in the primary key alone.
    """
    ids = select(rows.c.arrival_id).distinct().cte("ids")
    known = exists().where(arrivals.c.arrival_id == ids.c.arrival_id, arrivals.c.pipeline == pipeline)
    number = select(null(), func.count()).select_from(ids)
    found = union_all(select(ids.c.arrival_id, null()).where(~known), number)
    with forbid_plans(connection, "seqscan", "hashagg", "hashjoin"):
        unknown = stage_query(connection, found, _UNKNOWN, ["arrival_id"])
    copy = func.row_number().over(partition_by=rows.c.arrival_id, order_by=rows.c.last_modified)
    listed = select(rows, copy.label("copy")).join(unknown, unknown.c.arrival_id == rows.c.arrival_id).subquery()
    first = select(*(listed.c[name] for name in LISTED)).where(listed.c.copy == 1)
    new = stage_query(connection, first, LISTED, ["arrival_id"])
    return new, int(connection.execute(select(func.max(unknown.c.listed))).scalar_one())


def _stage_new(connection: Connection, pipeline: str, run_key: str, rows: Table) -> tuple[Table, Claim]:
    """Stage the listed objects that no run has claimed; return them, and the count of the others."""
    new, listed = stage_unclaimed(connection, pipeline, rows)
    return new, _count_elsewhere(connection, pipeline, run_key, rows, listed - count_rows(connection, new))


def _count_elsewhere(connection: Connection, pipeline: str, run_key: str, rows: Table, known: int) -> Claim:
    """Divide the number of staged arrivals that are known: settled by another run, or claimed by one."""
    own = arrivals.c.run_key == run_key
    open_runs = runs.c.pipeline == pipeline, runs.c.run_key != run_key, runs.c.state != AUDITED
    others = arrivals.c.run_key.in_(list(connection.scalars(select(runs.c.run_key).where(*open_runs))))
    unsettled = _count_held(connection, pipeline, rows, others, ~is_settled(arrivals))
    return Claim(settled=known - _count_held(connection, pipeline, rows, own) - unsettled, claimed_elsewhere=unsettled)


def is_settled(held: FromClause) -> ColumnElement[bool]:
    """Return the condition that an arrival has a word."""
    return exists().where(words.c.arrival_id == held.c.arrival_id, words.c.pipeline == held.c.pipeline)


def _count_held(connection: Connection, pipeline: str, rows: Table, *conditions: ColumnElement[bool]) -> int:
    """Count the staged arrivals that some runs hold, by the index of runs: it reads no other run's arrivals."""
    of_runs = select(arrivals.c.arrival_id).where(arrivals.c.pipeline == pipeline, *conditions)
    with forbid_plans(connection, "seqscan"):
        held = stage_query(connection, of_runs, _IDS, ["arrival_id"])
    if not count_rows(connection, held):
        return 0
    listed = exists().where(rows.c.arrival_id == held.c.arrival_id)
    return int(connection.execute(select(func.count(held.c.arrival_id)).where(listed)).scalar_one())
