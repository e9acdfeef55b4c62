"""Verdicts and words: what validate decided on each arrival, and every later decision, of which the latest counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import (
    BigInteger,
    Table,
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

from airlock.ledger import clock
from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.arrivals import need_held, scope, study_key_of
from airlock.ledger.columns import InstanceState
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import (
    choose_join,
    count_rows,
    forbid_plans,
    index_staged,
    number_rows,
    select_schema,
    stage,
    stage_query,
    stage_values,
)
from airlock.ledger.journal import journaled
from airlock.ledger.newer_contents import supersede_replaced
from airlock.ledger.owed import COME_AGAIN, OBJECTS, owe, pay
from airlock.ledger.redrives import HELD_FOR_THE_STUDY
from airlock.ledger.runs import need_run
from airlock.ledger.tables import arrivals, in_flight, instances, owed, run_totals, verdicts, words
from airlock.ledger.untold import note_news
from airlock.records import DISPOSITIONS, Disposition, Verdict, schema, study_key

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection

_UIDS = ("sop_instance_uid", "series_instance_uid", "study_instance_uid")
_DECIDED = ("disposition", "stage", "reason", "detail", "study_key", "batch_id", "job_id", "image_set_id")
GIVEN = schema(
    {name: DISPOSITIONS[name] for name in DISPOSITIONS if name not in {"key", "size"}}, {"study_key": pl.String}
)
_BEFORE = {"number": pl.Int64} | dict.fromkeys(("old_disposition", "old_reason", "old_study_key"), pl.String)
_NEWS = schema(GIVEN, dict.fromkeys(("pipeline", "run_key", "site"), pl.String), {"size": pl.Int64}, _BEFORE)
VERDICTS = schema(
    dict.fromkeys(("arrival_id", "verdict", *_UIDS), pl.String),
)
_FOUND = schema(dict.fromkeys(("arrival_id", "study_key", "study_instance_uid"), pl.String))
_REASONS = schema(dict.fromkeys(("arrival_id", "reason"), pl.String))
_VERDICTS = schema(VERDICTS, {"study_key": pl.String})
_NUMBERED = schema(_VERDICTS, {"position": pl.Int64})


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

    @journaled()
    def stage_verdicts(self, given: pl.DataFrame | Iterable[pl.DataFrame]) -> Table:
        """Stage verdicts for `claim_instances` and `record_verdicts` of the same transaction; call it in `at_once`.

        Parameters
        ----------
        given
            `VERDICTS`, in one frame or frame by frame. A ``study_key`` beside them counts for arrivals without a UID.
        """
        with self._reading() as connection:
            return _stage_verdicts(connection, given)

    @journaled()
    def record_verdicts(
        self,
        datastore_id: str,
        pipeline: str,
        run_key: str,
        given: pl.DataFrame | Iterable[pl.DataFrame] | Table,
        taken: pl.Series | None = None,
    ) -> None:
        """Record the verdicts on arrivals that a run holds, over earlier ones; their studies are in flight from now on.

        Parameters
        ----------
        datastore_id
            The data store into which the run is to import.
        pipeline, run_key
            The run.
        given
            The verdicts as `stage_verdicts` takes or returns them.
        taken
            SOP Instance UIDs that other arrivals own: accepted arrivals with one of them are recorded as quarantined.

        Raises
        ------
        LedgerError
            If the run does not hold one of the arrivals. Nothing is written.
        """
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            rows = given if isinstance(given, Table) else _stage_verdicts(connection, given)
            if taken is not None and not taken.is_empty():
                _quarantine_taken(connection, rows, taken)
            constants = {"pipeline": pipeline, "datastore_id": datastore_id}
            if _write_verdicts(connection, run_key, rows, constants) < count_rows(connection, rows):
                need_held(connection, pipeline, run_key, rows)
            connection.execute(delete(in_flight).where(in_flight.c.run_key == run_key))
            values = {"study_key": rows.c.study_key} | _literals(constants | {"run_key": run_key})
            studies = select(*values.values()).where(rows.c.study_key.is_not(None)).distinct()
            connection.execute(insert(in_flight).from_select(list(values), studies))

    @journaled()
    def settle(
        self,
        pipeline: str,
        run_key: str,
        dispositions: pl.DataFrame | Iterable[pl.DataFrame],
        open_studies: Iterable[str] = (),
    ) -> None:
        """Add words about arrivals that a run holds; a repeated word is not added again.

        What the run has released stays released: a later audit of the same run does not unsay it. Nor does it unsay
        what became of parked resources in later runs, see `origin_words`. An arrival that is quarantined or failed is
        superseded by a newer content that was claimed under its key.

        Parameters
        ----------
        pipeline, run_key
            The run that holds them.
        dispositions
            `records.DISPOSITIONS`, in one frame or frame by frame; their key and size are not written.
        open_studies
            Study Instance UIDs with arrivals that the run has not decided on: they stay in flight.

        Raises
        ------
        LedgerError
            If the run does not hold one of them, or one has no known disposition or more than one. Nothing is written.
        """
        frames = [dispositions] if isinstance(dispositions, pl.DataFrame) else dispositions
        now = clock.now()
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            rows = stage(connection, map(shape_dispositions, frames), GIVEN)
            news = stage_news(connection, pipeline, rows, arrivals.c.run_key == run_key)
            _need_all_held(connection, pipeline, run_key, rows, news)
            _leave_taken(connection, run_key, news)
            if not _has_verdict(connection, pipeline, news):
                _insert_verdicts(connection, pipeline, news)
            _name_studies(connection, pipeline, news)
            say(connection, run_key, news, now)
            _update_owed(connection, pipeline, run_key, rows, news)
            supersede_replaced(connection, pipeline, news)
            _end_flights(connection, run_key, rows, open_studies)

    @journaled()
    def settle_siblings(self, datastore_id: str, run_key: str, studies: pl.Series) -> int:
        """Release the files that other runs hold only because these studies were held; return their number.

        Parameters
        ----------
        datastore_id, run_key
            The data store, and the run that releases the studies.
        studies
            Study keys.
        """
        now = clock.now()
        with self._writing() as connection:  # the caller has locked the studies
            news = _stage_siblings(connection, datastore_id, run_key, stage_values(connection, studies, "study_key"))
            return say(connection, run_key, news, now)


def say(connection: Connection, said_by: str, news: Table, now: datetime) -> int:
    """Add the staged words that differ from the latest ones, and their differences to the totals; return their number.

    What was released stays released. Edges are to be told about the added words.
    """
    same = (news.c[f"old_{name}"].is_not_distinct_from(news.c[name]) for name in ("disposition", "reason", "study_key"))
    repeated = and_(*same)
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
    note_news(connection, news, now)
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
        "old_study_key": states.c.study_key,
    }
    query = select(*(given[name] for name in _NEWS)).join_from(rows, states, states.c.study_key == rows.c.study_key)
    return stage_query(connection, query.where(is_held, exists().where(own)), _NEWS, ["arrival_id"])


def stage_news(connection: Connection, pipeline: str, rows: Table, held: ColumnElement[bool]) -> Table:
    """Stage the given words with the site and size of their arrivals, and the words that counted before."""
    before = and_(words.c.arrival_id == rows.c.arrival_id, words.c.pipeline == pipeline, latest_word())
    own = and_(arrivals.c.arrival_id == rows.c.arrival_id, arrivals.c.pipeline == pipeline)
    query = (
        select(
            *(rows.c[name] for name in GIVEN),
            arrivals.c.pipeline,
            arrivals.c.run_key,
            arrivals.c.site,
            arrivals.c.size,
            func.coalesce(words.c.number, 0) + 1,
            words.c.disposition,
            words.c.reason,
            words.c.study_key,
        )
        .join_from(rows, arrivals, own)
        .outerjoin(words, before)
        .where(held)
    )
    ways = choose_join(connection, arrivals, rows)
    if "nestloop" not in ways:  # a run without statistics is taken for one arrival, and the rows are looked up
        index_staged(connection, rows, ["arrival_id"])
    with forbid_plans(connection, *ways):
        return stage_query(connection, query, _NEWS)


def _need_all_held(connection: Connection, pipeline: str, run_key: str, rows: Table, news: Table) -> None:
    """Check that each staged row is an arrival of the run, and that no two name one arrival.

    Raises
    ------
    LedgerError
        If not; the text has their number.
    """
    given, found = count_rows(connection, rows), count_rows(connection, news)
    distinct = connection.execute(select(func.count(rows.c.arrival_id.distinct()))).scalar_one()
    if given > distinct:
        raise LedgerError(f"{given - distinct} arrivals have more than one disposition: give each exactly one")
    if found < given:
        need_held(connection, pipeline, run_key, rows)


def _leave_taken(connection: Connection, run_key: str, news: Table) -> None:
    """Delete the staged words ``parked`` about files whose resources another run has taken in since."""
    since = exists().where(
        words.c.arrival_id == news.c.arrival_id,
        words.c.pipeline == news.c.pipeline,
        words.c.number == news.c.number - 1,
        words.c.said_by != run_key,
    )
    connection.execute(delete(news).where(news.c.disposition == Disposition.PARKED.value, since))


def _literals(constants: dict[str, Any]) -> dict[str, Any]:
    return {name: literal(value) for name, value in constants.items()}


def _stage_verdicts(connection: Connection, given: pl.DataFrame | Iterable[pl.DataFrame]) -> Table:
    frames = map(_shape_verdicts, (given,) if isinstance(given, pl.DataFrame) else given)
    return stage(connection, number_rows(frames), _NUMBERED, ["arrival_id"])


def _quarantine_taken(connection: Connection, rows: Table, taken: pl.Series) -> None:
    uids = select(stage_values(connection, taken, "sop_instance_uid").c.sop_instance_uid)
    lost = and_(rows.c.verdict == Verdict.ACCEPT.value, rows.c.sop_instance_uid.in_(uids))
    connection.execute(update(rows).where(lost).values(verdict=Verdict.QUARANTINE.value))


def _write_verdicts(connection: Connection, run_key: str, rows: Table, constants: dict[str, Any]) -> int:
    """Write the staged verdicts on arrivals of the run over earlier ones; return the number of those that are new."""
    held = and_(
        arrivals.c.arrival_id == rows.c.arrival_id,
        arrivals.c.pipeline == constants["pipeline"],
        arrivals.c.run_key == run_key,
    )
    values = {name: rows.c[name] for name in _VERDICTS} | _literals(constants)
    known = exists().where(verdicts.c.arrival_id == rows.c.arrival_id, verdicts.c.pipeline == constants["pipeline"])
    source = select(*values.values()).join_from(rows, arrivals, held).where(~known).order_by(rows.c.arrival_id)
    with forbid_plans(connection, *choose_join(connection, arrivals, rows)):
        written = connection.execute(insert(verdicts).from_select(list(values), source)).rowcount
    if written < count_rows(connection, rows):
        same = and_(verdicts.c.arrival_id == rows.c.arrival_id, verdicts.c.pipeline == constants["pipeline"])
        changes = {name: value for name, value in values.items() if name not in {"arrival_id", "pipeline"}}
        differs = or_(*(verdicts.c[name].is_distinct_from(value) for name, value in changes.items()))
        connection.execute(update(verdicts).where(same, differs).values(changes))
    return written


def _has_verdict(connection: Connection, pipeline: str, news: Table) -> bool:
    """Return whether one of the staged arrivals has a verdict: validate records all of a run or none."""
    one = select(news.c.arrival_id).limit(1).scalar_subquery()
    known = exists().where(verdicts.c.arrival_id == one, verdicts.c.pipeline == pipeline)
    return bool(connection.scalar(select(known)))


def _insert_verdicts(connection: Connection, pipeline: str, news: Table) -> None:
    """Keep the UIDs of arrivals that an older Airlock has validated, or whose kind records no verdicts."""
    named = select(*(news.c[name] for name in ("arrival_id", *_UIDS, "study_key"))).where(
        or_(*(news.c[name].is_not(None) for name in _UIDS))
    )
    _insert_absent(connection, verdicts, named.subquery(), pipeline=pipeline)


def _name_studies(connection: Connection, pipeline: str, news: Table) -> None:
    """Write the studies of unread files, which audit has found out, to their verdicts."""
    unread = func.coalesce(news.c.sop_instance_uid, "") == ""
    columns = (news.c[name] for name in _FOUND)
    query = select(*columns).where(unread, func.coalesce(news.c.study_instance_uid, "") != "")
    rows = stage_query(connection, query, _FOUND, ["arrival_id"])
    same = and_(verdicts.c.arrival_id == rows.c.arrival_id, verdicts.c.pipeline == pipeline)
    unknown = func.coalesce(verdicts.c.study_instance_uid, "") == ""
    values = {name: rows.c[name] for name in ("study_key", "study_instance_uid")}
    connection.execute(update(verdicts).where(same, unknown).values(values))


def _insert_absent(connection: Connection, table: Table, rows: Any, **constants: Any) -> None:
    """Insert the rows of arrivals that the table does not have, in the order of their ids."""
    known = exists().where(table.c.arrival_id == rows.c.arrival_id, table.c.pipeline == constants["pipeline"])
    values = {name: rows.c[name] for name in rows.c.keys()}  # noqa: SIM118  # no dict
    values |= {name: literal(value) for name, value in constants.items()}
    source = select(*values.values()).where(~known).order_by(rows.c.arrival_id)
    connection.execute(insert(table).from_select(list(values), source))


def _update_owed(connection: Connection, pipeline: str, run_key: str, rows: Table, news: Table) -> None:
    """Owe the objects of new words that were settled without being read; the others are owed no longer."""
    comes_again = news.c.reason.in_([str(reason) for reason in COME_AGAIN])
    again = stage_query(
        connection, select(news.c.arrival_id, news.c.reason).where(comes_again), _REASONS, ["arrival_id"]
    )
    held = and_(arrivals.c.arrival_id == again.c.arrival_id, arrivals.c.pipeline == pipeline)
    columns = arrivals.c.arrival_id, arrivals.c.bucket, arrivals.c.key, again.c.reason
    objects = select(*columns).join_from(again, arrivals, held)
    owe(connection, pipeline, run_key, stage_query(connection, objects, OBJECTS, ["key"]))
    if connection.scalar(select(exists().where(owed.c.taken_by == run_key, owed.c.pipeline == pipeline))):
        _pay_settled(connection, pipeline, run_key, rows)


def _pay_settled(connection: Connection, pipeline: str, run_key: str, rows: Table) -> None:
    """Forget that objects were owed which the run has taken and which its staged words have settled."""
    taken = and_(
        owed.c.key == arrivals.c.key, owed.c.bucket == arrivals.c.bucket, owed.c.pipeline == arrivals.c.pipeline
    )
    comes_again = func.coalesce(rows.c.reason, "").in_([str(reason) for reason in COME_AGAIN])
    columns = arrivals.c.arrival_id, arrivals.c.bucket, arrivals.c.key, rows.c.reason
    query = (
        select(*columns)
        .join_from(owed, arrivals, taken)
        .join(rows, rows.c.arrival_id == arrivals.c.arrival_id)
        .where(owed.c.taken_by == run_key, owed.c.pipeline == pipeline, arrivals.c.run_key == run_key, ~comes_again)
    )
    pay(connection, pipeline, stage_query(connection, query, OBJECTS, ["key"]))


def _end_flights(connection: Connection, run_key: str, rows: Table, open_studies: Iterable[str]) -> None:
    """End the flight of the settled studies, except of those with arrivals that the run has not decided on."""
    settled = select(rows.c.study_key).where(rows.c.study_key.is_not(None)).distinct()
    keys = pl.Series([study_key(uid) for uid in open_studies], dtype=pl.String)
    stay = select(stage_values(connection, keys, "study_key").c.study_key)
    ended = and_(in_flight.c.study_key.in_(settled), in_flight.c.study_key.not_in(stay))
    connection.execute(delete(in_flight).where(in_flight.c.run_key == run_key, ended))


def _shape_verdicts(given: pl.DataFrame) -> pl.DataFrame:
    frame = select_schema(given, VERDICTS).with_columns(study_key_of("study_instance_uid"))
    if "study_key" not in given.columns:
        return frame
    return frame.with_columns(study_key=pl.coalesce("study_key", given["study_key"]))


def shape_dispositions(dispositions: pl.DataFrame) -> pl.DataFrame:
    """Return dispositions with the columns of `GIVEN`.

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
