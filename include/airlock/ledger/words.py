"""Verdicts and words: what validate decided on each arrival, and every later decision, of which the latest counts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import (
    BigInteger,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.arrivals import is_settled, need_held, scope, study_key_of
from airlock.ledger.columns import InstanceState
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import disable_joins, insert_missing, select_schema, stage, stage_query, stage_values
from airlock.ledger.owed import COME_AGAIN, OBJECTS, owe, pay
from airlock.ledger.redrives import HELD_FOR_THE_STUDY
from airlock.ledger.runs import need_run
from airlock.ledger.tables import arrivals, in_flight, instances, owed, run_totals, verdicts, words
from airlock.records import DISPOSITIONS, Disposition, schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Connection, Select, Table

_UIDS = ("sop_instance_uid", "series_instance_uid", "study_instance_uid")
_DECIDED = ("disposition", "stage", "reason", "detail", "study_key", "batch_id", "job_id", "image_set_id")
_GIVEN = schema(
    {name: DISPOSITIONS[name] for name in DISPOSITIONS if name not in {"key", "size"}}, {"study_key": pl.String}
)
_BEFORE = {"number": pl.Int64, "old_disposition": pl.String, "old_reason": pl.String}
_NEWS = schema(_GIVEN, dict.fromkeys(("pipeline", "run_key", "site"), pl.String), {"size": pl.Int64}, _BEFORE)
VERDICTS = schema(
    dict.fromkeys(("arrival_id", "verdict", *_UIDS), pl.String),
)
_STUDY_KEYS = pl.Schema({"study_key": pl.String})
_VERDICTS = schema(VERDICTS, {"study_key": pl.String})


def latest_word(alias: Any = words) -> ColumnElement[bool]:
    """Return the condition that no later word about the same arrival exists."""
    later = words.alias("later")
    return ~exists().where(
        later.c.number > 1,  # as in the condition of the index
        later.c.arrival_id == alias.c.arrival_id,
        later.c.pipeline == alias.c.pipeline,
        later.c.number > alias.c.number,
    )


class Words(Store):
    """The ledger's methods about verdicts and dispositions."""

    def record_verdicts(
        self, datastore_id: str, pipeline: str, run_key: str, given: pl.DataFrame | Iterable[pl.DataFrame]
    ) -> None:
        """Record the verdicts on arrivals that a run holds, over earlier ones; their studies are in flight from now on.

        Parameters
        ----------
        datastore_id
            The data store into which the run is to import.
        pipeline, run_key
            The run.
        given
            `VERDICTS`, in one frame or frame by frame. A ``study_key`` beside them counts for arrivals without a UID.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals. Nothing is written.
        """
        frames = map(_shape_verdicts, (given,) if isinstance(given, pl.DataFrame) else given)
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, frames, _VERDICTS, ["arrival_id"])
            need_held(connection, pipeline, run_key, rows)
            same = and_(verdicts.c.arrival_id == rows.c.arrival_id, verdicts.c.pipeline == pipeline)
            values = {name: rows.c[name] for name in _VERDICTS if name != "arrival_id"}
            differs = or_(*(verdicts.c[name].is_distinct_from(value) for name, value in values.items()))
            connection.execute(update(verdicts).where(same, differs).values(**values, datastore_id=datastore_id))
            constants = {"pipeline": pipeline, "datastore_id": datastore_id}
            _insert_absent(connection, verdicts, rows, **constants)
            connection.execute(delete(in_flight).where(in_flight.c.run_key == run_key))
            studies = select(rows.c.study_key).where(rows.c.study_key.is_not(None)).distinct()
            open_rows = stage_query(connection, studies, _STUDY_KEYS, ["study_key"])
            insert_missing(
                connection, in_flight, open_rows, ["study_key", "datastore_id", "run_key"], run_key=run_key, **constants
            )

    def settle(self, pipeline: str, run_key: str, dispositions: pl.DataFrame | Iterable[pl.DataFrame]) -> None:
        """Add words about arrivals that a run holds; a repeated word is not added again.

        What the run has released stays released: a later audit of the same run does not unsay it.

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
        now = datetime.now(UTC)
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, map(_shape_dispositions, frames), _GIVEN, ["arrival_id"])
            news = _stage_news(connection, pipeline, rows, arrivals.c.run_key == run_key)
            _need_all_held(connection, pipeline, run_key, rows, news)
            _insert_verdicts(connection, pipeline, news)
            say(connection, run_key, news, now)
            _update_owed(connection, pipeline, run_key, rows, news)
            _end_flights(connection, pipeline, run_key, rows)

    def settle_siblings(self, datastore_id: str, run_key: str, studies: pl.Series) -> int:
        """Release the files that other runs hold only because these studies were held; return their number.

        Parameters
        ----------
        datastore_id, run_key
            The data store, and the run that releases the studies.
        studies
            Study keys.
        """
        now = datetime.now(UTC)
        with self._writing() as connection:  # the caller has locked the studies
            news = _stage_siblings(connection, datastore_id, run_key, stage_values(connection, studies, "study_key"))
            return say(connection, run_key, news, now)


def say(connection: Connection, said_by: str, news: Table, now: datetime) -> int:
    """Add the staged words that differ from the latest ones, and their differences to the totals; return their number.

    What was released stays released.
    """
    repeated = and_(news.c.old_disposition == news.c.disposition, news.c.old_reason.is_not_distinct_from(news.c.reason))
    unsaid = news.c.old_disposition == Disposition.RELEASED.value
    connection.execute(delete(news).where(or_(unsaid, repeated)))
    unreleased = news.c.disposition != Disposition.RELEASED.value
    values: dict[str, Any] = {name: news.c[name] for name in ("arrival_id", "pipeline", *_DECIDED)}
    values |= {
        "unreleased_instance_uid": case((unreleased, news.c.sop_instance_uid)),
        "number": cast(news.c.number, BigInteger),
        "said_by": literal(said_by),
        "settled_at": literal(now, words.c.settled_at.type),
    }
    source = select(*values.values()).order_by(news.c.arrival_id)
    added = connection.execute(insert(words).from_select(list(values), source)).rowcount
    _add_totals(connection, said_by, news, now)
    return added


def _add_totals(connection: Connection, said_by: str, news: Table, now: datetime) -> None:
    """Add what the staged words add to, and take from, the totals of the runs that hold the arrivals."""
    for sign, disposition, reason in (
        (1, news.c.disposition, news.c.reason),
        (-1, news.c.old_disposition, news.c.old_reason),
    ):
        groups = (news.c.run_key, news.c.pipeline, news.c.site, disposition, reason)
        sums = (sign * func.count(), sign * func.sum(news.c.size))
        constants = (literal(said_by), literal(now, run_totals.c.said_at.type))
        counted = select(*groups, *sums, *constants).where(disposition.is_not(None)).group_by(*groups)
        names = ["run_key", "pipeline", "site", "disposition", "reason", "arrivals", "bytes", "said_by", "said_at"]
        connection.execute(insert(run_totals).from_select(names, counted))


def _stage_siblings(connection: Connection, datastore_id: str, run_key: str, rows: Table) -> Table:
    """Stage the release of imported files that other runs hold only because their study, which is staged, was held."""
    own = and_(
        instances.c.arrival_id == states.c.arrival_id,
        instances.c.pipeline == states.c.pipeline,
        instances.c.datastore_id == datastore_id,
        instances.c.state == InstanceState.IMPORTED.value,
    )
    is_held = and_(
        states.c.disposition == Disposition.HELD.value,
        states.c.reason.in_([str(reason) for reason in HELD_FOR_THE_STUDY]),
        states.c.run_key != run_key,
    )
    given: dict[str, Any] = {name: states.c[name] for name in _NEWS if name in states.c}
    given |= {
        "disposition": literal(Disposition.RELEASED.value),
        "reason": null(),
        "detail": null(),
        "number": states.c.number + 1,
        "old_disposition": states.c.disposition,
        "old_reason": states.c.reason,
    }
    query = select(*(given[name] for name in _NEWS)).join_from(rows, states, states.c.study_key == rows.c.study_key)
    return stage_query(connection, query.where(is_held, exists().where(own)), _NEWS, ["arrival_id"])


def _stage_news(connection: Connection, pipeline: str, rows: Table, held: ColumnElement[bool]) -> Table:
    """Stage the given words with the site and size of their arrivals, and the words that counted before."""
    before = and_(words.c.arrival_id == rows.c.arrival_id, words.c.pipeline == pipeline, latest_word())
    own = and_(arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.pipeline == pipeline)
    query = (
        select(
            *(rows.c[name] for name in _GIVEN),
            arrivals.c.pipeline,
            arrivals.c.run_key,
            arrivals.c.site,
            arrivals.c.size,
            func.coalesce(words.c.number, 0) + 1,
            words.c.disposition,
            words.c.reason,
        )
        .join_from(rows, arrivals, own)
        .outerjoin(words, before)
        .where(held)
    )
    with disable_joins(connection, "hashjoin", "nestloop"):
        return stage_query(connection, query, _NEWS, ["arrival_id"])


def _need_all_held(connection: Connection, pipeline: str, run_key: str, rows: Table, news: Table) -> None:
    """Check that each staged row is an arrival of the run, and that no two name one arrival.

    Raises
    ------
    LedgerError
        If not; the text has their number.
    """
    given = connection.execute(select(func.count()).select_from(rows)).scalar_one()
    found, distinct = connection.execute(
        select(func.count(), func.count(news.c.arrival_id.distinct())).select_from(news)
    ).one()
    if found > distinct:
        doubled = given - connection.execute(select(func.count(rows.c.arrival_id.distinct()))).scalar_one()
        raise LedgerError(f"{doubled} arrivals have more than one disposition: give each exactly one")
    if found < given:
        need_held(connection, pipeline, run_key, rows)


def _insert_verdicts(connection: Connection, pipeline: str, news: Table) -> None:
    """Keep the UIDs of arrivals that an older Airlock has validated, and studies that were found out since."""
    named = select(*(news.c[name] for name in ("arrival_id", *_UIDS, "study_key"))).where(
        or_(*(news.c[name].is_not(None) for name in _UIDS))
    )
    _insert_absent(connection, verdicts, named.subquery(), pipeline=pipeline)
    same = and_(verdicts.c.arrival_id == news.c.arrival_id, verdicts.c.pipeline == pipeline)
    unread = func.coalesce(verdicts.c.study_instance_uid, "") == ""  # audit has found the study by key or folder
    found = and_(unread, news.c.study_key.is_not(None), news.c.study_instance_uid != "")
    values = {name: news.c[name] for name in ("study_key", "study_instance_uid")}
    connection.execute(update(verdicts).where(same, found).values(values))


def _insert_absent(connection: Connection, table: Table, rows: Any, **constants: Any) -> None:
    """Insert the rows of arrivals that the table does not have, in the order of their ids."""
    known = exists().where(table.c.arrival_id == rows.c.arrival_id, table.c.pipeline == constants["pipeline"])
    values = {name: rows.c[name] for name in rows.c.keys()}  # noqa: SIM118  # no dict
    values |= {name: literal(value) for name, value in constants.items()}
    source = select(*values.values()).where(~known).order_by(rows.c.arrival_id)
    connection.execute(insert(table).from_select(list(values), source))


def _update_owed(connection: Connection, pipeline: str, run_key: str, rows: Table, news: Table) -> None:
    """Owe the objects of new words that were settled without being read; the others are owed no longer."""
    new, again = _select_settled(pipeline, news)
    owe(connection, pipeline, run_key, stage_query(connection, new.where(again), OBJECTS, ["key"]))
    taken = exists().where(owed.c.taken_by == run_key, owed.c.key == arrivals.c.key, owed.c.pipeline == pipeline)
    settled, again = _select_settled(pipeline, rows)
    pay(connection, pipeline, stage_query(connection, settled.where(taken, ~again), OBJECTS, ["key"]))


def _select_settled(pipeline: str, rows: Table) -> tuple[Select[Any], ColumnElement[bool]]:
    """Return the query for the `OBJECTS` of staged words, and the condition that one must come again."""
    held = and_(arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.pipeline == pipeline)
    columns = arrivals.c.arrival_id, arrivals.c.bucket, arrivals.c.key, rows.c.reason
    comes_again = func.coalesce(rows.c.reason, "").in_([str(reason) for reason in COME_AGAIN])
    return select(*columns).join_from(rows, arrivals, held), comes_again


def _end_flights(connection: Connection, pipeline: str, run_key: str, rows: Table) -> None:
    """End the flight of the settled studies, except those with arrivals that the run has not decided on."""
    of_run = and_(arrivals.c.run_key == run_key, arrivals.c.pipeline == pipeline)
    is_open = exists().where(
        verdicts.c.study_key == in_flight.c.study_key,
        verdicts.c.pipeline == pipeline,
        arrivals.c.arrival_id == verdicts.c.arrival_id,
        of_run,
        ~is_settled(arrivals),
    )
    settled = in_flight.c.study_key.in_(select(rows.c.study_key))
    connection.execute(delete(in_flight).where(in_flight.c.run_key == run_key, settled, ~is_open))


def _shape_verdicts(given: pl.DataFrame) -> pl.DataFrame:
    frame = select_schema(given, VERDICTS).with_columns(study_key_of("study_instance_uid"))
    if "study_key" not in given.columns:
        return frame
    return frame.with_columns(study_key=pl.coalesce("study_key", given["study_key"]))


def _shape_dispositions(dispositions: pl.DataFrame) -> pl.DataFrame:
    """Return dispositions with the columns of `_GIVEN`.

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
