"""Redrives: settled arrivals that go through again, each as a new generation beside the row of the one before.

The rows of earlier generations stay as they are, but for the name of the one in their place. An arrival is *current*
as long as none is in its place, or its instance is still its own: a successor takes it over when it is accepted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, exists, func, insert, or_, select, update

from airlock.ledger.arrivals import next_generation, scope
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import fetch, insert_missing, stage, uid_frame
from airlock.ledger.runs import need_run
from airlock.ledger.tables import (
    InstanceState,
    arrivals,
    instances,
    redrives,
    runs,
)
from airlock.reasons import Reason
from airlock.records import ARRIVALS, Disposition, schema

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select

REDRIVABLE = (Disposition.HELD, Disposition.QUARANTINED, Disposition.FAILED)
HELD_FOR_THE_STUDY = (Reason.STUDY_INCOMPLETE, Reason.STUDY_HELD, Reason.NOT_PUBLISHED)

# A settled arrival that may be chosen.
CANDIDATES = schema(
    ARRIVALS,
    {
        "run_key": pl.String,
        "disposition": pl.String,
        "reason": pl.String,
        "study_key": pl.String,
        "sop_instance_uid": pl.String,
        "image_set_id": pl.String,  # that holds its instance, null where none does
        "state": pl.String,  # of that instance, an InstanceState
        "generation": pl.Int64,
        "settled_at": ARRIVALS["last_modified"],
        "superseded_by": pl.String,
        "redriven_by": pl.String,  # the run of the arrival in its place
        "redriven_at": ARRIVALS["last_modified"],  # when that one was settled
        "run_state": pl.String,
    },
)
# What is to come in the place of a candidate: the object as it is now, or what it carries on.
SUCCESSORS = schema(
    ARRIVALS,
    {
        "chosen_id": pl.String,  # the candidate's
        "carries": pl.String,  # the same where its import counts on, else null
        "generation": pl.Int64,
    },
)
CARRIED = pl.Schema(
    {
        "arrival_id": pl.String,
        "carries": pl.String,
        "run_key": pl.String,  # of the one that is carried on
        "image_set_id": pl.String,
        "state": pl.String,  # an InstanceState
    }
)
TAKEN_OVER = schema({"arrival_id": pl.String}, {"asked_at": ARRIVALS["last_modified"]})
_IDS = pl.Schema({"arrival_id": pl.String})
_STUDY_KEYS = pl.Schema({"study_key": pl.String})
_LINKS = pl.Schema({"arrival_id": pl.String, "superseded_by": pl.String})
_INSERTED = schema(ARRIVALS, {"carries": pl.String, "generation": pl.Int64})
STOPPED = (Disposition.QUARANTINED.value, Disposition.FAILED.value)  # the words on what did not come in
_successor = arrivals.alias("successor")
_REPLACED = and_(_successor.c.arrival_id == arrivals.c.superseded_by, _successor.c.pipeline == arrivals.c.pipeline)
_IN_STORE = (InstanceState.IMPORTED.value, InstanceState.NON_PRIMARY.value)
_OWNS = and_(
    instances.c.arrival_id == arrivals.c.arrival_id,
    instances.c.pipeline == arrivals.c.pipeline,
    instances.c.state.in_(_IN_STORE),
)


def is_redrive(connection: Connection, run_key: str) -> bool:
    """Say whether a run takes arrivals through again."""
    return bool(connection.scalar(select(exists().where(redrives.c.run_key == run_key))))


def superseded(by_run: str) -> ColumnElement[bool]:
    """Return the condition that an arrival does not count any more: the one in its place is settled, or is a run's."""
    ended = or_(_successor.c.settled_at.is_not(None), _successor.c.run_key == by_run)
    return exists().where(_REPLACED, ended)


def still_owns(datastore_id: str) -> ColumnElement[bool]:
    """Return the condition that an arrival owns an instance that lies in the data store."""
    return exists().where(_OWNS, instances.c.datastore_id == datastore_id)


def _candidates(datastore_id: str, pipeline: str, *conditions: ColumnElement[bool]) -> Select[Any]:
    columns: dict[str, ColumnElement[Any]] = {
        **dict(arrivals.c.items()),
        "image_set_id": instances.c.image_set_id,
        "state": instances.c.state,
        "redriven_by": _successor.c.run_key,
        "redriven_at": _successor.c.settled_at,
        "run_state": runs.c.state,
    }
    return (
        select(*(columns[name] for name in CANDIDATES))
        .join(runs, runs.c.run_key == arrivals.c.run_key)
        .outerjoin(instances, and_(_OWNS, instances.c.datastore_id == datastore_id))
        .outerjoin(_successor, _REPLACED)
        .where(arrivals.c.pipeline == pipeline, *conditions)
    )


class Redrives(Store):
    """The ledger's part about redrives."""

    def find_arrivals(self, datastore_id: str, pipeline: str, ids: pl.Series) -> pl.DataFrame:
        """Return the arrivals of a pipeline that have these ids, in whatever state, as `CANDIDATES`."""
        with self._reading() as connection:
            rows = stage(connection, uid_frame(ids, "arrival_id"), _IDS, ["arrival_id"])
            named = arrivals.c.arrival_id.in_(select(rows.c.arrival_id))
            return fetch(connection, _candidates(datastore_id, pipeline, named), CANDIDATES).sort("key", "arrival_id")

    def unsettled(self, pipeline: str, run_key: str) -> int:
        """Return how many arrivals a run holds on which it has not decided."""
        of_run = arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key
        with self._reading() as connection:
            counted = select(func.count()).where(*of_run, arrivals.c.settled_at.is_(None))
            return int(connection.execute(counted).scalar_one())

    def redriven(self, pipeline: str, run_key: str) -> int:
        """Return how many held arrivals of a run have another generation in their place."""
        of_run = arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key
        held = arrivals.c.disposition == Disposition.HELD.value, arrivals.c.superseded_by.is_not(None)
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).where(*of_run, *held)).scalar_one())

    def choose_arrivals(
        self, datastore_id: str, pipeline: str, run_key: str | None, study: str | None, reasons: tuple[str, ...]
    ) -> pl.DataFrame:
        """Return the held, quarantined and failed arrivals that fit all that is given.

        Parameters
        ----------
        datastore_id, pipeline
            The data store and the pipeline.
        run_key, study, reasons
            The run that settled them, their study key, and reason codes of which theirs is one.

        Returns
        -------
        polars.DataFrame
            `CANDIDATES`, those too that are being redriven.
        """
        wanted: list[ColumnElement[bool]] = [arrivals.c.disposition.in_([word.value for word in REDRIVABLE])]
        if run_key is not None:
            wanted.append(arrivals.c.run_key == run_key)
        if study is not None:
            wanted.append(arrivals.c.study_key == study)
        if reasons:
            wanted.append(arrivals.c.reason.in_(reasons))
        with self._reading() as connection:
            found = fetch(connection, _candidates(datastore_id, pipeline, *wanted), CANDIDATES)
        return found.filter(is_current() | is_underway()).sort("key", "arrival_id")

    def companions(self, datastore_id: str, pipeline: str, studies: pl.Series) -> pl.DataFrame:
        """Return the current arrivals, as `CANDIDATES`, that are held for nothing but the sake of these studies.

        Parameters
        ----------
        datastore_id, pipeline
            The data store and the pipeline.
        studies
            Study keys.
        """
        reasons = [str(reason) for reason in HELD_FOR_THE_STUDY]
        with self._reading() as connection:
            rows = stage(connection, uid_frame(studies, "study_key"), _STUDY_KEYS, ["study_key"])
            of_study = arrivals.c.study_key.in_(select(rows.c.study_key))
            held = and_(arrivals.c.disposition == Disposition.HELD.value, arrivals.c.reason.in_(reasons), of_study)
            found = fetch(connection, _candidates(datastore_id, pipeline, held), CANDIDATES)
        return found.filter(is_current() & (pl.col("run_state") != "running")).sort("key", "arrival_id")

    def left_behind(self, datastore_id: str, image_sets: pl.Series, chosen: pl.Series) -> int:
        """Return how many instances lie in these image sets whose arrivals are not among the chosen ones."""
        with self._reading() as connection:
            rows = stage(connection, uid_frame(chosen, "arrival_id"), _IDS, ["arrival_id"])
            sets = stage(connection, uid_frame(image_sets, "arrival_id"), _IDS, ["arrival_id"])
            counted = select(func.count()).where(
                instances.c.datastore_id == datastore_id,
                instances.c.image_set_id.in_(select(sets.c.arrival_id)),
                instances.c.arrival_id.not_in(select(rows.c.arrival_id)),
            )
            return int(connection.execute(counted).scalar_one())

    def redrive(
        self, pipeline: str, run_key: str, successors: pl.DataFrame, asked: dict[str, Any]
    ) -> dict[str, int] | None:
        """Claim new generations of settled arrivals for a run: all of them, or none and an error.

        Where the object under a key has come in by itself meanwhile, the old row is only linked with it.

        Parameters
        ----------
        pipeline, run_key
            An open run.
        successors
            `SUCCESSORS`, one row per chosen arrival.
        asked
            ``asked_by``, ``why`` and ``choice``, for the record.

        Returns
        -------
        dict or None
            How many were ``chosen``, ``taken`` anew, ``carried``, and ``in_already``; None where the run has done it
            before.

        Raises
        ------
        LedgerError
            If the run is not open, another redrive was faster, or an open run holds what lies under a key by now.
        """
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            if is_redrive(connection, run_key):
                return None
            _need_free(connection, pipeline, successors["chosen_id"])
            places = _placed(connection, pipeline, successors)
            new = _insert(connection, pipeline, run_key, places)
            _link(connection, pipeline, places)
            counts = {"chosen": len(places), **new, "in_already": sum(not place.is_new for place in places)}
            record = asked | {"choice": json.dumps(asked["choice"]), "counts": json.dumps(counts)}
            connection.execute(insert(redrives).values(run_key=run_key, asked_at=datetime.now(UTC), **record))
            return counts

    def taken_over(self, pipeline: str, run_key: str) -> pl.Series:
        """Return the StudyInstanceUIDs of what a run holds and a redrive has taken, or takes, through again."""
        held = arrivals.c.disposition == Disposition.HELD.value
        of_run = arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key
        statement = select(arrivals.c.study_instance_uid).where(*of_run, held, arrivals.c.superseded_by.is_not(None))
        with self._reading() as connection:
            return pl.Series(connection.execute(statement.distinct()).scalars().all(), dtype=pl.String)

    def taken_over_at(self, pipeline: str, run_key: str) -> pl.DataFrame:
        """Return which of a run's arrivals a redrive has taken, or takes, through again, and when it was asked for.

        Returns
        -------
        polars.DataFrame
            `TAKEN_OVER`.
        """
        statement = (
            select(arrivals.c.arrival_id, redrives.c.asked_at)
            .join(_successor, _REPLACED)
            .join(redrives, redrives.c.run_key == _successor.c.run_key)
            .where(arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key)
        )
        with self._reading() as connection:
            return fetch(connection, statement, TAKEN_OVER)

    def redrive_of(self, run_key: str) -> dict[str, Any] | None:
        """Return who asked for a redrive, when, why, what they chose and how many that were; None for another run."""
        with self._reading() as connection:
            row = connection.execute(select(redrives).where(redrives.c.run_key == run_key)).mappings().one_or_none()
        if row is None:
            return None
        read = {name: json.loads(row[name]) for name in ("choice", "counts")}
        return {"asked_by": row["asked_by"], "asked_at": row["asked_at"].isoformat(), "why": row["why"], **read}

    def carried(self, datastore_id: str, pipeline: str, run_key: str) -> pl.DataFrame:
        """Return what a run carries on instead of importing it, `CARRIED` sorted by arrival.

        The image set is that of the instance, whoever of the two generations owns it by now.
        """
        before = arrivals.alias("before")
        owner = and_(
            instances.c.arrival_id.in_([arrivals.c.arrival_id, before.c.arrival_id]),
            instances.c.pipeline == arrivals.c.pipeline,
            instances.c.datastore_id == datastore_id,
        )
        statement = (
            select(
                arrivals.c.arrival_id, arrivals.c.carries, before.c.run_key, instances.c.image_set_id, instances.c.state
            )
            .join(before, and_(before.c.arrival_id == arrivals.c.carries, before.c.pipeline == arrivals.c.pipeline))
            .outerjoin(instances, owner)
            .where(arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key)
        )
        with self._reading() as connection:
            return fetch(connection, statement, CARRIED).unique("arrival_id").sort("arrival_id")


def is_current() -> pl.Expr:
    """Tell of `CANDIDATES` which none has taken the place of, or which still own what lies in the data store."""
    kept = pl.col("state").is_not_null() & pl.col("redriven_at").is_not_null()
    return pl.col("superseded_by").is_null() | kept


def is_underway() -> pl.Expr:
    """Tell of `CANDIDATES` which a redrive that has not decided yet is taking through."""
    return pl.col("superseded_by").is_not_null() & pl.col("redriven_at").is_null()


def _need_free(connection: Connection, pipeline: str, ids: pl.Series) -> None:
    """Refuse arrivals that another redrive has come to take since they were chosen.

    Raises
    ------
    LedgerError
        With the number of them.
    """
    rows = stage(connection, uid_frame(ids, "arrival_id"), _IDS, ["arrival_id"])
    underway = exists().where(
        _successor.c.arrival_id == arrivals.c.superseded_by,
        _successor.c.pipeline == arrivals.c.pipeline,
        or_(_successor.c.settled_at.is_(None), ~exists().where(_OWNS)),
    )
    taken = and_(arrivals.c.pipeline == pipeline, arrivals.c.arrival_id.in_(select(rows.c.arrival_id)), underway)
    lost = connection.execute(select(func.count()).select_from(arrivals).where(taken)).scalar_one()
    if lost:
        raise LedgerError(f"another redrive has taken {lost} of these arrivals meanwhile: choose again when it is done")


@dataclass
class _Place:
    """Where an arrival comes in anew."""

    row: dict[str, Any]  # of `SUCCESSORS`
    arrival_id: str
    generation: int
    passed: set[str] = field(default_factory=set)  # what it supersedes beside the chosen one
    is_new: bool = False

    def goes_on(self, there: Any) -> bool:
        """Go on to the next generation where the id is that of the chosen one, or of what does not count as come in.

        An id that is taken by anything else says that the object has come in already. What another generation stands in
        the place of does not count: an object may be replaced, and then put back as it was.

        Raises
        ------
        LedgerError
            If a run holds it, or what is to come in its place, that has not decided on it.
        """
        if there.undecided is not None:
            raise LedgerError(
                f"the object of a chosen arrival is held by run {there.undecided!r}, which has not decided on it: "
                f"redrive when that run has ended"
            )
        counts = there.disposition not in STOPPED and (there.superseded_by is None or there.owns)
        if counts and self.row["carries"] is None and self.arrival_id != self.row["chosen_id"]:
            return False
        if there.superseded_by is None:  # else another one has stood in its place before
            self.passed.add(self.arrival_id)
        self.arrival_id = next_generation(self.arrival_id)
        self.generation = max(self.generation, there.generation + 1)
        return True

    @property
    def links(self) -> dict[str, str]:
        """Whose place it takes, and its own name."""
        return dict.fromkeys({self.row["chosen_id"], *self.passed} - {self.arrival_id}, self.arrival_id)


def _placed(connection: Connection, pipeline: str, successors: pl.DataFrame) -> list[_Place]:
    """Find an id for each successor that no arrival has, or that of the arrival as which its object has come in."""
    rows = successors.iter_rows(named=True)
    places = [_Place(row, row["arrival_id"], row["generation"]) for row in rows]
    underway = places
    while underway:
        known = _known(connection, pipeline, [place.arrival_id for place in underway])
        for place in underway:
            place.is_new = place.arrival_id not in known
        underway = [place for place in underway if not place.is_new and place.goes_on(known[place.arrival_id])]
    return places


def _known(connection: Connection, pipeline: str, ids: list[str]) -> dict[str, Any]:
    """Return what the ledger has under these ids, by id."""
    rows = stage(connection, pl.DataFrame({"arrival_id": ids}, schema=_IDS).unique(), _IDS, ["arrival_id"])
    undecided = case(
        (arrivals.c.disposition.is_(None), arrivals.c.run_key),
        (_successor.c.disposition.is_(None), _successor.c.run_key),
    )
    columns = [arrivals.c[name] for name in ("arrival_id", "disposition", "generation", "superseded_by")]
    statement = (
        select(*columns, undecided.label("undecided"), exists().where(_OWNS).label("owns"))
        .outerjoin(_successor, _REPLACED)
        .where(arrivals.c.pipeline == pipeline, arrivals.c.arrival_id.in_(select(rows.c.arrival_id)))
    )
    return {row.arrival_id: row for row in connection.execute(statement)}


def _insert(connection: Connection, pipeline: str, run_key: str, places: list[_Place]) -> dict[str, int]:
    """Insert the new rows, one per object; return how many are to be read, and how many carry on.

    Where one chosen arrival has the object in the data store and another one waits for the same, it is carried on.
    """
    new = [
        place.row | {"arrival_id": place.arrival_id, "generation": place.generation} for place in places if place.is_new
    ]
    rows = pl.DataFrame(new, schema=SUCCESSORS).with_columns(pl.col("generation").max().over("arrival_id"))
    rows = rows.sort("carries", nulls_last=True, maintain_order=True)
    rows = rows.unique("arrival_id", keep="first", maintain_order=True)
    staged = stage(connection, rows, _INSERTED, ["arrival_id"])
    constants: dict[str, Any] = {"pipeline": pipeline, "run_key": run_key, "claimed_at": datetime.now(UTC)}
    insert_missing(connection, arrivals, staged, ["pipeline", "arrival_id"], **constants)
    carried = rows["carries"].count()
    return {"taken": rows.height - carried, "carried": carried}


def _link(connection: Connection, pipeline: str, places: list[_Place]) -> None:
    """Name in each row the one in its place; what has come in already has its own place back before.

    The name before is kept, for a redrive that is given back.
    """
    _name_successors(connection, pipeline, {place.arrival_id: None for place in places if not place.is_new})
    links: dict[str, str | None] = {}
    for place in places:
        links |= place.links
    _name_successors(connection, pipeline, links)


def _name_successors(connection: Connection, pipeline: str, links: dict[str, str | None]) -> None:
    rows = stage(connection, pl.DataFrame(list(links.items()), schema=_LINKS, orient="row"), _LINKS, ["arrival_id"])
    is_one = and_(arrivals.c.pipeline == pipeline, arrivals.c.arrival_id == rows.c.arrival_id)
    changes = arrivals.c.superseded_by.is_distinct_from(rows.c.superseded_by)
    values = {"superseded_by": rows.c.superseded_by, "superseded_before": arrivals.c.superseded_by}
    connection.execute(update(arrivals).where(is_one, changes).values(values))
