"""The arrivals: who holds each, and the final word on it.

An arrival has one row per pipeline and one run in it. A run's arrivals stay its own after they are settled, so that a
cleared task finds the same delivery again.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, exists, func, or_, select, update

from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import disable_joins, fetch_frames, insert_missing, select_schema, stage
from airlock.ledger.runs import need_run
from airlock.ledger.tables import arrivals
from airlock.reasons import Reason
from airlock.records import ARRIVALS, DISPOSITIONS, Disposition, digest, study_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import ColumnElement, Connection, FromClause, Select, Subquery, Table

_DECIDED = [name for name in DISPOSITIONS if name not in {"arrival_id", "key", "size"}]
_SETTLED = pl.Schema({name: DISPOSITIONS[name] for name in ("arrival_id", *_DECIDED)} | {"study_key": pl.String})


def scope(pipeline: str) -> str:
    """Return the name of what a writer of a pipeline's arrivals must be alone in."""
    return f"arrivals of {pipeline}"


# Settled without the content: the object may be there and readable by the next run, under the same etag. A duplicate
# has the reason of the copy that was to come in its place.
COME_AGAIN = (Reason.ACCESS_DENIED, Reason.OBJECT_CHANGED, Reason.OBJECT_GONE, Reason.INSTANCE_CLAIMED)
_NO_RUN = ""  # no run's key


@dataclass(frozen=True)
class Claim:
    """What became of a listing, beside what the run holds now: `Arrivals.held_by` says that."""

    settled: int  # in the listing, and settled by another run
    claimed_elsewhere: int  # in the listing, and held by another run that has not settled them


@dataclass(frozen=True)
class Unclaimed(Claim):
    """What a run would hold now if it claimed a listing."""

    arrivals: int
    bytes: int
    frames: Iterator[pl.DataFrame]  # of `records.ARRIVALS`, by key


def _order_by_key(connection: Connection, rows: FromClause) -> list[ColumnElement[str]]:
    """Return the order of the keys' bytes, whatever the database sorts by."""
    order: list[ColumnElement[str]] = [rows.c[name] for name in ("bucket", "key", "arrival_id")]
    return [column.collate("C") for column in order] if connection.dialect.name == "postgresql" else order


def next_generation(arrival_id: str) -> str:
    """Return the id under which the same object version goes through once more."""
    return digest(arrival_id, "again")


def _select_held(connection: Connection, pipeline: str, run_key: str, carried: bool | None) -> Select[Any]:
    """Return the query for what a run holds, by key."""
    of_run = [arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key]
    if carried is not None:
        of_run.append(arrivals.c.carries.is_not(None) if carried else arrivals.c.carries.is_(None))
    columns = (arrivals.c[name] for name in ARRIVALS)
    return select(*columns).where(*of_run).order_by(*_order_by_key(connection, arrivals))


def need_held(connection: Connection, pipeline: str, run_key: str, rows: Table) -> None:
    """Refuse staged rows (with an ``arrival_id``) that name an arrival which the run does not hold.

    Raises
    ------
    LedgerError
        With the number of them.
    """
    held = exists().where(
        arrivals.c.pipeline == pipeline, arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.run_key == run_key
    )
    not_held = connection.execute(select(func.count()).select_from(rows).where(~held)).scalar_one()
    if not_held:
        raise LedgerError(f"run {run_key!r} does not hold {not_held} of these arrivals: clear its buffer task")


def _shape_dispositions(dispositions: pl.DataFrame) -> pl.DataFrame:
    """Return the dispositions as the table keeps them.

    Raises
    ------
    LedgerError
        If a word is not a disposition.
    """
    frame = select_schema(dispositions, DISPOSITIONS)
    unknown = frame.filter(~pl.col("disposition").is_in(list(Disposition)).fill_null(value=False)).height
    if unknown:
        raise LedgerError(f"{unknown} arrivals have no known disposition: use one of {', '.join(Disposition)}")
    return frame.with_columns(study_key_of("study_instance_uid"))


def _need_one_disposition_each(connection: Connection, rows: Table) -> None:
    """Refuse staged rows that name an arrival twice.

    Raises
    ------
    LedgerError
        With the number of repetitions.
    """
    counted = select(func.count() - func.count(rows.c.arrival_id.distinct())).select_from(rows)
    doubled = connection.execute(counted).scalar_one()
    if doubled:
        raise LedgerError(f"{doubled} arrivals have more than one disposition: give each exactly one")


def _hash_uids(uids: pl.Series) -> pl.Series:
    keys = {uid: study_key(uid) for uid in uids.unique().drop_nulls()}
    return uids.replace_strict(keys, default=None, return_dtype=pl.String)


def study_key_of(column: str) -> pl.Expr:
    """Return the study keys of a column of Study Instance UIDs, null where there is none."""
    return pl.col(column).map_batches(_hash_uids, return_dtype=pl.String).alias("study_key")


def _assign_next_generations(connection: Connection, pipeline: str, run_key: str, rows: Table) -> None:
    """Give the next generation's id to what other runs settled without having looked at its content; their rows stay.

    So too where a redrive has taken the same object through again: whether it is to come once more says that row.
    """
    reasons = [str(reason) for reason in COME_AGAIN]
    may_come = or_(arrivals.c.reason.in_(reasons), arrivals.c.superseded_by.is_not(None))
    statement = select(arrivals.c.arrival_id, arrivals.c.reason.in_(reasons)).where(
        _held_by_others(pipeline, run_key, rows), may_come
    )
    while True:
        found = [(name, next_generation(name), again) for name, again in connection.execute(statement)]
        there = _find_ids(connection, pipeline, [following for _, following, again in found if not again])
        steps = [(name, following) for name, following, again in found if again or following in there]
        if not steps:
            return
        pairs = pl.DataFrame(steps, schema={"arrival_id": pl.String, "next_id": pl.String}, orient="row")
        again = stage(connection, pairs, pairs.schema, ["arrival_id"])
        is_one = rows.c.arrival_id == again.c.arrival_id
        connection.execute(update(rows).where(is_one).values(arrival_id=again.c.next_id))


def _find_ids(connection: Connection, pipeline: str, ids: list[str]) -> set[str]:
    """Return those of the ids that an arrival has."""
    if not ids:
        return set()
    rows = stage(connection, pl.DataFrame({"arrival_id": ids}), pl.Schema({"arrival_id": pl.String}), ["arrival_id"])
    is_one = arrivals.c.arrival_id.in_(select(rows.c.arrival_id))
    return set(
        connection.execute(select(arrivals.c.arrival_id).where(arrivals.c.pipeline == pipeline, is_one)).scalars()
    )


class Arrivals(Store):
    """The ledger's part about arrivals."""

    def claim(self, pipeline: str, run_key: str, listing: pl.DataFrame | Iterable[pl.DataFrame]) -> Claim:
        """Take for a run all arrivals of a listing that no run has; two runs at once never both get one.

        What an earlier run could not get at (`COME_AGAIN`) is there to be taken once more, as an arrival of its own.

        Parameters
        ----------
        pipeline, run_key
            An open run.
        listing
            `records.ARRIVALS`, in one frame or frame by frame; the same arrival twice counts once. The ledger waits for
            each frame, and others for the ledger: have them at hand.

        Raises
        ------
        LedgerError
            If the run is not open. Nothing is claimed.
        """
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, listing, ARRIVALS, ["arrival_id"])
            _assign_next_generations(connection, pipeline, run_key, rows)
            constants: dict[str, Any] = {"pipeline": pipeline, "run_key": run_key, "claimed_at": datetime.now(UTC)}
            insert_missing(connection, arrivals, _without_copies(rows), ["pipeline", "arrival_id"], **constants)
            return _count_elsewhere(connection, pipeline, run_key, rows)

    @contextmanager
    def unclaimed(self, pipeline: str, listing: pl.DataFrame | Iterable[pl.DataFrame]) -> Iterator[Unclaimed]:
        """Find what `claim` would take for a new run, and take nothing; its frames last as long as the block.

        Parameters
        ----------
        pipeline
            The pipeline that asks.
        listing
            As in `claim`.
        """
        with self._reading() as connection:
            rows = stage(connection, listing, ARRIVALS, ["arrival_id"])
            _assign_next_generations(connection, pipeline, _NO_RUN, rows)
            elsewhere = _count_elsewhere(connection, pipeline, _NO_RUN, rows)
            once = _without_copies(rows)
            taken = exists().where(arrivals.c.pipeline == pipeline, arrivals.c.arrival_id == once.c.arrival_id)
            free = select(once).where(~taken)
            total = select(func.count(), func.coalesce(func.sum(once.c.size), 0)).where(~taken)
            number, size = connection.execute(total).one()
            frames = fetch_frames(connection, free.order_by(*_order_by_key(connection, once)), ARRIVALS)
            yield Unclaimed(elsewhere.settled, elsewhere.claimed_elsewhere, int(number), int(size), frames)

    def held_by(self, pipeline: str, run_key: str) -> pl.DataFrame:
        """Return all arrivals that a run holds, settled or not, as `records.ARRIVALS` sorted by key."""
        return pl.concat([ARRIVALS.to_frame(), *self.held_frames(pipeline, run_key)])

    def held_frames(self, pipeline: str, run_key: str, *, carried: bool | None = None) -> Iterator[pl.DataFrame]:
        """Yield what `held_by` returns frame by frame; none where the run holds nothing.

        With ``carried`` there are only those that a redrive carries on without importing them, or only the others.
        """
        with self._reading() as connection:
            rows = fetch_frames(connection, _select_held(connection, pipeline, run_key, carried), ARRIVALS)
            if connection.dialect.name == "sqlite":
                yield from rows
        yield from rows  # after the transaction: whoever takes them may be slow

    def held_total(self, pipeline: str, run_key: str) -> tuple[int, int]:
        """Return how many arrivals a run holds, settled or not, and their bytes."""
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

    def settle(self, pipeline: str, run_key: str, dispositions: pl.DataFrame | Iterable[pl.DataFrame]) -> None:
        """Write the final word on arrivals that a run holds, over an earlier word of the same run.

        Parameters
        ----------
        pipeline, run_key
            The run that holds them.
        dispositions
            `records.DISPOSITIONS`, in one frame or frame by frame; the key and the size are the ledger's own.

        Raises
        ------
        LedgerError
            If the run does not hold one of them, or one has no known disposition or more than one. Nothing is written.
        """
        frames = [dispositions] if isinstance(dispositions, pl.DataFrame) else dispositions
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, map(_shape_dispositions, frames), _SETTLED, ["arrival_id"])
            held = and_(
                arrivals.c.pipeline == pipeline,
                arrivals.c.arrival_id == rows.c.arrival_id,
                arrivals.c.run_key == run_key,
            )
            values = {name: rows.c[name] for name in (*_DECIDED, "study_key")}
            first = func.coalesce(arrivals.c.settled_at, datetime.now(UTC))
            with disable_joins(connection, "hashjoin", "nestloop"):
                written = connection.execute(
                    update(arrivals).where(held).values(values | {"settled_at": first})
                ).rowcount
            if written < connection.execute(select(func.count()).select_from(rows)).scalar_one():
                _need_one_disposition_each(connection, rows)
                need_held(connection, pipeline, run_key, rows)


def _without_copies(rows: Table) -> Subquery:
    """Return the staged rows without copies: in the order of their ids, as an index takes them in fastest."""
    copy = func.row_number().over(partition_by=rows.c.arrival_id, order_by=rows.c.last_modified)
    numbered = select(rows, copy.label("copy")).subquery()
    return select(*(numbered.c[name] for name in ARRIVALS)).where(numbered.c.copy == 1).subquery()


def _held_by_others(pipeline: str, run_key: str, rows: Table) -> ColumnElement[bool]:
    """Return the condition that an arrival is among the staged ones, and another run has it."""
    is_staged = arrivals.c.arrival_id.in_(select(rows.c.arrival_id))
    return and_(arrivals.c.pipeline == pipeline, arrivals.c.run_key != run_key, is_staged)


def _count_elsewhere(connection: Connection, pipeline: str, run_key: str, rows: Table) -> Claim:
    """Count the staged arrivals that other runs have."""
    settled = func.coalesce(func.sum(case((arrivals.c.settled_at.is_not(None), 1), else_=0)), 0)
    statement = select(settled, func.count()).where(_held_by_others(pipeline, run_key, rows))
    done, every = connection.execute(statement).one()
    return Claim(settled=int(done), claimed_elsewhere=int(every) - int(done))
