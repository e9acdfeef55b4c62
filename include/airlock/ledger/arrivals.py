"""The arrivals: which run holds each one, and its disposition.

An arrival has one row per pipeline, which names the run that holds it. A run holds its arrivals after they are settled
too, so that a cleared task finds the same delivery.
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
    """Return the lock scope of writers to a pipeline's arrivals; see `database.writing`."""
    return f"arrivals of {pipeline}"


# Arrivals settled without reading their content. The next run may find the object, readable and under the same etag. A
# duplicate has the reason of the copy that was to be imported instead of it.
COME_AGAIN = (Reason.ACCESS_DENIED, Reason.OBJECT_CHANGED, Reason.OBJECT_GONE, Reason.INSTANCE_CLAIMED)
_NO_RUN = ""  # no run's key


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


def next_generation(arrival_id: str) -> str:
    """Return the id that the same object version gets when it is processed again."""
    return digest(arrival_id, "again")


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


def _shape_dispositions(dispositions: pl.DataFrame) -> pl.DataFrame:
    """Return dispositions with the table's columns.

    Raises
    ------
    LedgerError
        If a value is not a `Disposition`.
    """
    frame = select_schema(dispositions, DISPOSITIONS)
    unknown = frame.filter(~pl.col("disposition").is_in(list(Disposition)).fill_null(value=False)).height
    if unknown:
        raise LedgerError(f"{unknown} arrivals have no known disposition: use one of {', '.join(Disposition)}")
    return frame.with_columns(study_key_of("study_instance_uid"))


def _need_one_disposition_each(connection: Connection, rows: Table) -> None:
    """Check that no two staged rows name one arrival.

    Raises
    ------
    LedgerError
        If some do; the text has the number of repetitions.
    """
    counted = select(func.count() - func.count(rows.c.arrival_id.distinct())).select_from(rows)
    doubled = connection.execute(counted).scalar_one()
    if doubled:
        raise LedgerError(f"{doubled} arrivals have more than one disposition: give each exactly one")


def _hash_uids(uids: pl.Series) -> pl.Series:
    keys = {uid: study_key(uid) for uid in uids.unique().drop_nulls()}
    return uids.replace_strict(keys, default=None, return_dtype=pl.String)


def study_key_of(column: str) -> pl.Expr:
    """Return the study keys of a column of Study Instance UIDs, null where the UID is null."""
    return pl.col(column).map_batches(_hash_uids, return_dtype=pl.String).alias("study_key")


def _assign_next_generations(connection: Connection, pipeline: str, run_key: str, rows: Table) -> None:
    """Give staged arrivals the id of their next generation where other runs settled them without reading the content.

    The rows of earlier generations stay. Where a redrive has processed the same object again, the row of its latest
    generation decides.
    """
    reasons = [str(reason) for reason in COME_AGAIN]
    may_come = or_(arrivals.c.reason.in_(reasons), arrivals.c.superseded_by.is_not(None))
    statement = select(arrivals.c.arrival_id, arrivals.c.reason.in_(reasons)).where(
        _held_by_others(pipeline, run_key, rows), may_come
    )
    while True:
        found = [(name, next_generation(name), again) for name, again in connection.execute(statement)]
        existing = _find_ids(connection, pipeline, [following for _, following, again in found if not again])
        steps = [(name, following) for name, following, again in found if again or following in existing]
        if not steps:
            return
        pairs = pl.DataFrame(steps, schema={"arrival_id": pl.String, "next_id": pl.String}, orient="row")
        again = stage(connection, pairs, pairs.schema, ["arrival_id"])
        is_one = rows.c.arrival_id == again.c.arrival_id
        connection.execute(update(rows).where(is_one).values(arrival_id=again.c.next_id))


def _find_ids(connection: Connection, pipeline: str, ids: list[str]) -> set[str]:
    """Return the given ids that arrivals of the pipeline have."""
    if not ids:
        return set()
    rows = stage(connection, pl.DataFrame({"arrival_id": ids}), pl.Schema({"arrival_id": pl.String}), ["arrival_id"])
    is_one = arrivals.c.arrival_id.in_(select(rows.c.arrival_id))
    return set(
        connection.execute(select(arrivals.c.arrival_id).where(arrivals.c.pipeline == pipeline, is_one)).scalars()
    )


class Arrivals(Store):
    """The ledger's methods about arrivals."""

    def claim(self, pipeline: str, run_key: str, listing: pl.DataFrame | Iterable[pl.DataFrame]) -> Claim:
        """Claim for a run all listed arrivals that no run holds; of two runs at the same time only one gets an arrival.

        What an earlier run settled without reading it (`COME_AGAIN`) is claimed as a new arrival of its own.

        Parameters
        ----------
        pipeline, run_key
            An open run.
        listing
            `records.ARRIVALS`, in one frame or frame by frame; the same arrival twice counts once. Other writers wait
            while the ledger waits for a frame: prepare the frames before the call.

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

    def settle(self, pipeline: str, run_key: str, dispositions: pl.DataFrame | Iterable[pl.DataFrame]) -> None:
        """Write the dispositions of arrivals that a run holds, over earlier ones of the same run.

        Parameters
        ----------
        pipeline, run_key
            The run that holds them.
        dispositions
            `records.DISPOSITIONS`, in one frame or frame by frame; their key and size are not written.

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
    """Return the staged rows, one per arrival, in the order of their ids: an index takes them fastest so."""
    copy = func.row_number().over(partition_by=rows.c.arrival_id, order_by=rows.c.last_modified)
    numbered = select(rows, copy.label("copy")).subquery()
    return select(*(numbered.c[name] for name in ARRIVALS)).where(numbered.c.copy == 1).subquery()


def _held_by_others(pipeline: str, run_key: str, rows: Table) -> ColumnElement[bool]:
    """Return the condition that an arrival is staged and another run holds it."""
    is_staged = arrivals.c.arrival_id.in_(select(rows.c.arrival_id))
    return and_(arrivals.c.pipeline == pipeline, arrivals.c.run_key != run_key, is_staged)


def _count_elsewhere(connection: Connection, pipeline: str, run_key: str, rows: Table) -> Claim:
    """Count the staged arrivals that other runs hold."""
    settled = func.coalesce(func.sum(case((arrivals.c.settled_at.is_not(None), 1), else_=0)), 0)
    statement = select(settled, func.count()).where(_held_by_others(pipeline, run_key, rows))
    done, every = connection.execute(statement).one()
    return Claim(settled=int(done), claimed_elsewhere=int(every) - int(done))
