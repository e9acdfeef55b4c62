"""The arrivals: which run holds each one.

The row of an arrival is its claim: it has the facts about the object, names the run that holds it, and never changes. A
run holds its arrivals after they are settled too, so that a cleared task finds the same delivery.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import exists, func, insert, literal, select, update

from airlock.ledger import clock
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import (
    count_rows,
    fetch_frames,
    forbid_plans,
    number_rows,
    select_schema,
    stage,
    stage_query,
)
from airlock.ledger.generations import LISTED_KEYS, find_generations, record_contents
from airlock.ledger.journal import Taken, encode
from airlock.ledger.owed import take_owed
from airlock.ledger.runs import AUDITED, need_run
from airlock.ledger.tables import arrivals, runs, words
from airlock.records import ARRIVALS, schema, study_key

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, FromClause, Select, Table

LISTED = schema(ARRIVALS, {"site": pl.String})
_IDS = pl.Schema({"arrival_id": pl.String})
_POSITIONS = pl.Schema({"position": pl.Int64, "arrival_id": pl.String})


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


@dataclass(frozen=True)
class StagedListing:
    """A listing in the database."""

    rows: Table  # with the columns `LISTED_KEYS`
    arrivals: int  # in these rows, each counted once


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
    return select_schema(frame if "site" in frame.columns else frame.with_columns(site=pl.lit("")), LISTED)


def _frames(listing: pl.DataFrame | Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the numbered rows of a listing, always in the same order."""
    return number_rows(map(_shape_listing, (listing,) if isinstance(listing, pl.DataFrame) else listing))


def _select_listed(frames: Iterable[pl.DataFrame], wanted: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the numbered rows that have a wanted ``position``, with the id wanted for it; both ascend by position."""
    pieces = iter(wanted)
    piece = next(pieces, None)
    for frame in frames:
        while piece is not None and not frame.is_empty():
            yield frame.drop("arrival_id").join(piece, on="position")
            if piece["position"][-1] > frame["position"][-1]:
                break
            piece = next(pieces, None)


class Arrivals(Store):
    """The ledger's methods about arrivals."""

    def claim(
        self,
        pipeline: str,
        run_key: str,
        listing: pl.DataFrame | Iterable[pl.DataFrame],
        listed_until: datetime | None = None,
        owed_due: datetime | None = None,
        *,
        completes: str | None = None,
    ) -> Claim:
        """Claim for a run all listed arrivals that no run holds; of two runs at the same time only one gets an arrival.

        Objects that are owed, and contents that return under their key, are claimed as new arrivals of their own. What
        was quarantined or failed under the same key is superseded by them.

        Parameters
        ----------
        pipeline, run_key
            An open run.
        listing
            `LISTED`, or `records.ARRIVALS` for objects without a site; in one frame or frame by frame. It is read
            twice, in the same order, the second time for new arrivals; an iterator is kept in memory. An arrival twice
            counts once. Other writers wait while the ledger waits for a frame: prepare the frames before the call.
        listed_until
            The time up to which the listing has all objects, aware.
        owed_due
            Objects that are owed come again if their next attempt is at or before this time; now without one.
        completes
            The key of another run whose listing is taken with this claim: *listed_until* counts for it too.

        Raises
        ------
        LedgerError
            If the run is not open. Nothing is claimed.
        """
        entry = self.begin_entry()
        with clock.note_times(None if entry is None else entry.digits) as times:
            claim = self._claim_listing(pipeline, run_key, listing, listed_until, owed_due, completes=completes)
        if entry is not None:  # what the run holds now, not the whole listing; after the commit, without locks
            held = Taken(entry, self._held_with_sites(pipeline, run_key))
            facts = {"listed_until": encode(listed_until), "owed_due": encode(owed_due), "listing": held.read_all()}
            if completes is not None:
                facts["completes"] = completes
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
        *,
        completes: str | None,
    ) -> Claim:
        now = clock.now()
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            new, elsewhere = _stage_new(connection, pipeline, run_key, listing, owed_due or now)
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
                taken = runs.c.run_key.in_([run_key, *([completes] if completes else [])])
                connection.execute(update(runs).where(taken).values(listed_until=listed_until))
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
            new, elsewhere = _stage_new(connection, pipeline, "", listing, clock.now())
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
) -> StagedListing:
    """Stage a listing, with the ids of the generations that its objects are now."""
    hashes: list[pl.Series] = []
    rows = stage(connection, _sort_ids(_frames(listing), hashes), LISTED_KEYS)
    generations = find_generations(connection, pipeline, rows, due)
    if not generations.is_empty():
        changes = stage(connection, generations, generations.schema, ["arrival_id"])
        is_one = rows.c.arrival_id == changes.c.arrival_id
        connection.execute(update(rows).where(is_one).values(arrival_id=changes.c.next_id))
    return StagedListing(rows, _count_ids(connection, rows, hashes))


def _sort_ids(frames: Iterable[pl.DataFrame], hashes: list[pl.Series]) -> Iterator[pl.DataFrame]:
    """Yield each frame in the order of its ids, in which an index is read fastest, and collect the ids' hashes."""
    for frame in frames:
        hashes.append(frame["arrival_id"].hash())
        yield frame.sort("arrival_id", maintain_order=True)


def _count_ids(connection: Connection, rows: Table, hashes: list[pl.Series]) -> int:
    """Return the number of different staged ids; the database counts only if hashes repeat, for the sort is costly."""
    listed = sum(map(len, hashes))
    if not listed or pl.concat(hashes).n_unique() == listed:
        return listed
    return int(connection.execute(select(func.count(rows.c.arrival_id.distinct()))).scalar_one())


def stage_unclaimed(
    connection: Connection, pipeline: str, staged: StagedListing, listing: pl.DataFrame | Iterable[pl.DataFrame]
) -> Table:
    """Stage the listed objects that no run has claimed, one per arrival.

    Nearly all of a listing may be known: only ids are looked up, in the primary key alone. Then new rows are staged.
    """
    rows = staged.rows
    same = arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.pipeline == pipeline
    known = select(arrivals.c.arrival_id).where(*same).offset(0).exists()  # with an offset it is no join, but lookups
    with forbid_plans(connection, "seqscan"):
        unknown = stage_query(connection, select(rows.c.position, rows.c.arrival_id).where(~known), _POSITIONS)
    wanted = fetch_frames(connection, select(unknown).order_by(unknown.c.position), _POSITIONS)
    listed = stage(connection, _select_listed(_frames(listing), wanted), LISTED)
    copy = func.row_number().over(partition_by=listed.c.arrival_id, order_by=listed.c.last_modified)
    copies = select(listed, copy.label("copy")).subquery()
    first = select(*(copies.c[name] for name in LISTED)).where(copies.c.copy == 1)
    return stage_query(connection, first, LISTED, ["arrival_id"])


def _stage_new(
    connection: Connection,
    pipeline: str,
    run_key: str,
    listing: pl.DataFrame | Iterable[pl.DataFrame],
    due: datetime,
) -> tuple[Table, Claim]:
    """Stage the listed objects that no run has claimed; return them, and the count of the others."""
    listing = tuple(listing) if isinstance(listing, Iterator) else listing
    staged = stage_listing(connection, pipeline, listing, due)
    new = stage_unclaimed(connection, pipeline, staged, listing)
    others = staged.arrivals - count_rows(connection, new)
    return new, _count_elsewhere(connection, pipeline, run_key, staged.rows, others)


def _count_elsewhere(connection: Connection, pipeline: str, run_key: str, rows: Table, known: int) -> Claim:
    """Divide the number of staged arrivals that are known: settled by another run, or claimed by one."""
    own = arrivals.c.run_key == run_key
    open_runs = runs.c.pipeline == pipeline, runs.c.run_key != run_key, runs.c.state != AUDITED
    others = list(connection.scalars(select(runs.c.run_key).where(*open_runs)))
    underway = arrivals.c.run_key.in_(others), ~is_settled(arrivals)
    unsettled = _count_held(connection, pipeline, rows, *underway) if others else 0
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
    listed = held.c.arrival_id.in_(select(rows.c.arrival_id))  # rows have no index: SQLite reads them once for this
    return int(connection.execute(select(func.count(held.c.arrival_id)).where(listed)).scalar_one())
