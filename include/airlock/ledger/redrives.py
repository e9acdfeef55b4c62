"""Redrives: settled arrivals that are processed again, each as an arrival of the next generation.

A redrive changes nothing in the rows of earlier generations but the name of their successor. An arrival is *current* if
it has no successor, or if it still owns its instance: a successor takes that over when it is accepted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, exists, func, insert, or_, select, update

from airlock.ledger import clock
from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.arrivals import scope
from airlock.ledger.columns import FindingKind, InstanceState
from airlock.ledger.comparison_tables import findings
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import fetch, insert_missing, stage, stage_query, stage_values
from airlock.ledger.generations import STOPPED, next_generation, record_newest
from airlock.ledger.journal import journaled
from airlock.ledger.owed import take_owed
from airlock.ledger.runs import need_run
from airlock.ledger.tables import arrivals, instances, redrives, runs, successors
from airlock.reasons import Reason
from airlock.records import ARRIVALS, Disposition, schema

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select

REDRIVABLE = (Disposition.HELD, Disposition.QUARANTINED, Disposition.FAILED)
HELD_FOR_THE_STUDY = (
    Reason.STUDY_INCOMPLETE,
    Reason.SIBLING_UNREAD,
    Reason.WAITING_FOR_FILE,
    Reason.STUDY_HELD,
    Reason.STUDY_IN_FLIGHT,
    Reason.FEWER_THAN_DECLARED,
    Reason.AWAITING_DECLARED,
    Reason.NOT_PUBLISHED,
    Reason.PATIENT_CONTRADICTED,
)

# A settled arrival that may be selected.
CANDIDATES = schema(
    ARRIVALS,
    {
        "run_key": pl.String,
        "disposition": pl.String,
        "reason": pl.String,
        "study_key": pl.String,
        "sop_instance_uid": pl.String,
        "image_set_id": pl.String,  # contains its instance; null without one
        "state": pl.String,  # of that instance, an InstanceState
        "generation": pl.Int64,
        "settled_at": ARRIVALS["last_modified"],
        "superseded_by": pl.String,
        "redriven_by": pl.String,  # the run of its successor
        "redriven_at": ARRIVALS["last_modified"],  # when its successor was settled
        "run_state": pl.String,
    },
)
# The successor of a candidate: its object as it is now, or the instance that is carried on.
SUCCESSORS = schema(
    ARRIVALS,
    {
        "chosen_id": pl.String,  # arrival_id of the candidate
        "carries": pl.String,  # the same if its import still counts, else null
        "generation": pl.Int64,
    },
)
CARRIED = pl.Schema(
    {
        "arrival_id": pl.String,
        "carries": pl.String,
        "run_key": pl.String,  # the run that imported the instance
        "image_set_id": pl.String,
        "state": pl.String,  # an InstanceState
    }
)
REDRIVEN = schema({"arrival_id": pl.String}, {"asked_at": ARRIVALS["last_modified"]})
_IDS = pl.Schema({"arrival_id": pl.String})
_LINKS = pl.Schema({"arrival_id": pl.String, "superseded_by": pl.String})
_INSERTED = schema(ARRIVALS, {"carries": pl.String, "generation": pl.Int64, "chosen_id": pl.String})
_NEW = schema(ARRIVALS, {"site": pl.String, "carries": pl.String, "generation": pl.Int64})
_successor = states.alias("successor")
_REPLACED = and_(_successor.c.arrival_id == states.c.superseded_by, _successor.c.pipeline == states.c.pipeline)
_IN_STORE = (InstanceState.IMPORTED.value, InstanceState.NON_PRIMARY.value)
_OWNS = and_(
    instances.c.arrival_id == states.c.arrival_id,
    instances.c.pipeline == states.c.pipeline,
    instances.c.state.in_(_IN_STORE),
)


def is_redrive(connection: Connection, run_key: str) -> bool:
    """Return whether a run is a redrive."""
    return bool(connection.scalar(select(exists().where(redrives.c.run_key == run_key))))


def superseded(by_run: str) -> ColumnElement[bool]:
    """Return the condition that an arrival no longer counts: its successor is settled, or belongs to this run."""
    ended = or_(_successor.c.settled_at.is_not(None), _successor.c.run_key == by_run)
    return exists().where(_REPLACED, ended)


def still_owns(datastore_id: str) -> ColumnElement[bool]:
    """Return the condition that an arrival owns an instance in the data store."""
    return exists().where(_OWNS, instances.c.datastore_id == datastore_id)


def _has_lost(datastore_id: str) -> ColumnElement[bool]:
    """Return the condition that the data store has lost what an arrival brought, and no other has brought it since."""
    lost = (
        findings.c.kind == FindingKind.MISSING_IN_STORE.value,
        findings.c.closed_at.is_(None),
        findings.c.datastore_id == datastore_id,
    )
    again = exists().where(
        instances.c.SOPInstanceUID == findings.c.subject,
        instances.c.datastore_id == datastore_id,
        instances.c.state.in_(_IN_STORE),
    )
    return states.c.arrival_id.in_(select(findings.c.arrival_id).where(*lost, ~again))


def _candidates(datastore_id: str, pipeline: str, *conditions: ColumnElement[bool]) -> Select[Any]:
    columns: dict[str, ColumnElement[Any]] = {
        **dict(states.c.items()),
        "image_set_id": instances.c.image_set_id,
        "state": instances.c.state,
        "redriven_by": _successor.c.run_key,
        "redriven_at": _successor.c.settled_at,
        "run_state": runs.c.state,
    }
    return (
        select(*(columns[name] for name in CANDIDATES))
        .join(runs, runs.c.run_key == states.c.run_key)
        .outerjoin(instances, and_(_OWNS, instances.c.datastore_id == datastore_id))
        .outerjoin(_successor, _REPLACED)
        .where(states.c.pipeline == pipeline, *conditions)
    )


class Redrives(Store):
    """The ledger's part about redrives."""

    def find_arrivals(self, datastore_id: str, pipeline: str, ids: pl.Series) -> pl.DataFrame:
        """Return the arrivals of a pipeline that have these ids, in any state, as `CANDIDATES`."""
        with self._reading() as connection:
            rows = stage_values(connection, ids, "arrival_id")
            named = states.c.arrival_id.in_(select(rows.c.arrival_id))
            return fetch(connection, _candidates(datastore_id, pipeline, named), CANDIDATES).sort("key", "arrival_id")

    def count_undecided(self, pipeline: str, run_key: str) -> int:
        """Return how many arrivals a run holds and has not decided on."""
        of_run = states.c.pipeline == pipeline, states.c.run_key == run_key
        with self._reading() as connection:
            counted = select(func.count()).where(*of_run, states.c.settled_at.is_(None))
            return int(connection.execute(counted).scalar_one())

    def count_redriven(self, pipeline: str, run_key: str) -> int:
        """Return how many held arrivals of a run have a successor."""
        of_run = states.c.pipeline == pipeline, states.c.run_key == run_key
        held = states.c.disposition == Disposition.HELD.value, states.c.superseded_by.is_not(None)
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).where(*of_run, *held)).scalar_one())

    def choose_arrivals(
        self,
        datastore_id: str,
        pipeline: str,
        run_key: str | None,
        study: str | None,
        reasons: tuple[str, ...],
        *,
        site: str | None = None,
    ) -> pl.DataFrame:
        """Return the held, quarantined and failed arrivals that meet all conditions that are given.

        Parameters
        ----------
        datastore_id, pipeline
            The data store and the pipeline.
        run_key, study, reasons, site
            The run that settled them, their study key, reason codes one of which is theirs, and their site.

        Returns
        -------
        polars.DataFrame
            `CANDIDATES`, including arrivals that are being redriven.
        """
        wanted: list[ColumnElement[bool]] = [states.c.disposition.in_([word.value for word in REDRIVABLE])]
        if run_key is not None:
            wanted.append(states.c.run_key == run_key)
        if study is not None:
            wanted.append(states.c.study_key == study)
        if reasons:
            wanted.append(states.c.reason.in_(reasons))
        if site is not None:
            wanted.append(states.c.site == site)
        with self._reading() as connection:
            found = fetch(connection, _candidates(datastore_id, pipeline, *wanted), CANDIDATES)
        return found.filter(is_current() | is_underway()).sort("key", "arrival_id")

    def choose_lost(self, datastore_id: str, pipeline: str, run_key: str | None, study: str | None) -> pl.DataFrame:
        """Return the arrivals that brought what a data store has lost, as `CANDIDATES`, whatever their dispositions.

        Parameters
        ----------
        datastore_id, pipeline
            The data store and the pipeline.
        run_key, study
            Only those of this run, or this study key.
        """
        wanted = [_has_lost(datastore_id), states.c.settled_at.is_not(None)]
        if run_key is not None:
            wanted.append(states.c.run_key == run_key)
        if study is not None:
            wanted.append(states.c.study_key == study)
        with self._reading() as connection:
            found = fetch(connection, _candidates(datastore_id, pipeline, *wanted), CANDIDATES)
        return found.filter(is_current() | is_underway()).sort("key", "arrival_id")

    def find_companions(self, datastore_id: str, pipeline: str, studies: pl.Series) -> pl.DataFrame:
        """Return the current arrivals, as `CANDIDATES`, that are held only because of these studies.

        Parameters
        ----------
        datastore_id, pipeline
            The data store and the pipeline.
        studies
            Study keys.
        """
        reasons = [str(reason) for reason in HELD_FOR_THE_STUDY]
        with self._reading() as connection:
            rows = stage_values(connection, studies, "study_key")
            of_study = states.c.study_key.in_(select(rows.c.study_key))
            held = and_(states.c.disposition == Disposition.HELD.value, states.c.reason.in_(reasons), of_study)
            found = fetch(connection, _candidates(datastore_id, pipeline, held), CANDIDATES)
        return found.filter(is_current() & (pl.col("run_state") != "running")).sort("key", "arrival_id")

    def count_unselected(self, datastore_id: str, image_sets: pl.Series, chosen: pl.Series) -> int:
        """Return how many instances in these image sets belong to arrivals that are not selected."""
        with self._reading() as connection:
            rows = stage_values(connection, chosen, "arrival_id")
            sets = stage_values(connection, image_sets, "arrival_id")
            counted = select(func.count()).where(
                instances.c.datastore_id == datastore_id,
                instances.c.image_set_id.in_(select(sets.c.arrival_id)),
                instances.c.arrival_id.not_in(select(rows.c.arrival_id)),
            )
            return int(connection.execute(counted).scalar_one())

    @journaled()
    def redrive(
        self, pipeline: str, run_key: str, successors: pl.DataFrame, asked: dict[str, Any]
    ) -> dict[str, int] | None:
        """Claim the successors of settled arrivals for a run: all of them, or none and an error.

        If another arrival has brought the object in, the old row is only linked with that arrival.

        Parameters
        ----------
        pipeline, run_key
            An open run.
        successors
            `SUCCESSORS`, one row per selected arrival.
        asked
            ``asked_by``, ``why`` and ``choice``, for the record.

        Returns
        -------
        dict or None
            Numbers of arrivals ``chosen``, ``taken``, ``carried`` and ``in_already``; None if the run has already
            claimed them.

        Raises
        ------
        LedgerError
            If the run is not open, another redrive was faster, or an open run holds an object that is claimed here.
        """
        with self._writing(scope(pipeline)) as connection:
            need_run(connection, run_key, pipeline)
            if is_redrive(connection, run_key):
                return None
            _check_free(connection, pipeline, successors["chosen_id"])
            claims = _find_ids(connection, pipeline, successors)
            new = _insert(connection, pipeline, run_key, claims)
            _link(connection, pipeline, claims)
            counts = {"chosen": len(claims), **new, "in_already": sum(not claim.is_new for claim in claims)}
            record = asked | {"choice": json.dumps(asked["choice"]), "counts": json.dumps(counts)}
            connection.execute(insert(redrives).values(run_key=run_key, asked_at=clock.now(), **record))
            return counts

    def find_redriven_studies(self, pipeline: str, run_key: str) -> pl.Series:
        """Return the StudyInstanceUIDs of a run's held arrivals that have a successor."""
        held = states.c.disposition == Disposition.HELD.value
        of_run = states.c.pipeline == pipeline, states.c.run_key == run_key
        statement = select(states.c.study_instance_uid).where(*of_run, held, states.c.superseded_by.is_not(None))
        with self._reading() as connection:
            return pl.Series(connection.execute(statement.distinct()).scalars().all(), dtype=pl.String)

    def find_redriven_arrivals(self, pipeline: str, run_key: str) -> pl.DataFrame:
        """Return the arrivals of a run that have a successor, and when its redrive was requested.

        Returns
        -------
        polars.DataFrame
            `REDRIVEN`.
        """
        statement = (
            select(states.c.arrival_id, redrives.c.asked_at)
            .join(_successor, _REPLACED)
            .join(redrives, redrives.c.run_key == _successor.c.run_key)
            .where(states.c.pipeline == pipeline, states.c.run_key == run_key)
        )
        with self._reading() as connection:
            return fetch(connection, statement, REDRIVEN)

    def find_redrive(self, run_key: str) -> dict[str, Any] | None:
        """Return who requested a redrive, when, why, the selection and its counts; None if the run is not a redrive."""
        with self._reading() as connection:
            row = connection.execute(select(redrives).where(redrives.c.run_key == run_key)).mappings().one_or_none()
        if row is None:
            return None
        read = {name: json.loads(row[name]) for name in ("choice", "counts")}
        return {"asked_by": row["asked_by"], "asked_at": row["asked_at"].isoformat(), "why": row["why"], **read}

    def find_carried(self, datastore_id: str, pipeline: str, run_key: str) -> pl.DataFrame:
        """Return the arrivals that a run carries on without an import, as `CARRIED`, sorted by arrival.

        The image set is that of the instance, whichever of the two generations owns it now.
        """
        before = arrivals.alias("before")
        owner = and_(
            instances.c.arrival_id.in_([states.c.arrival_id, before.c.arrival_id]),
            instances.c.pipeline == states.c.pipeline,
            instances.c.datastore_id == datastore_id,
        )
        statement = (
            select(states.c.arrival_id, states.c.carries, before.c.run_key, instances.c.image_set_id, instances.c.state)
            .join(before, and_(before.c.arrival_id == states.c.carries, before.c.pipeline == states.c.pipeline))
            .outerjoin(instances, owner)
            .where(states.c.pipeline == pipeline, states.c.run_key == run_key)
        )
        with self._reading() as connection:
            return fetch(connection, statement, CARRIED).unique("arrival_id").sort("arrival_id")


def is_current() -> pl.Expr:
    """Return the condition on `CANDIDATES` that an arrival has no successor, or still owns its instance."""
    owns = pl.col("state").is_not_null() & pl.col("redriven_at").is_not_null()
    return pl.col("superseded_by").is_null() | owns


def is_underway() -> pl.Expr:
    """Return the condition on `CANDIDATES` that a redrive has not decided on the successor yet."""
    return pl.col("superseded_by").is_not_null() & pl.col("redriven_at").is_null()


def _check_free(connection: Connection, pipeline: str, ids: pl.Series) -> None:
    """Refuse arrivals that another redrive has claimed since they were selected."""
    rows = stage_values(connection, ids, "arrival_id")
    underway = exists().where(
        _successor.c.arrival_id == states.c.superseded_by,
        _successor.c.pipeline == states.c.pipeline,
        redrives.c.run_key == _successor.c.run_key,
        or_(_successor.c.settled_at.is_(None), ~exists().where(_OWNS)),
    )
    taken = and_(states.c.pipeline == pipeline, states.c.arrival_id.in_(select(rows.c.arrival_id)), underway)
    claimed = connection.execute(select(func.count()).select_from(states).where(taken)).scalar_one()
    if claimed:
        raise LedgerError(f"Another redrive has claimed {claimed} of these arrivals. Select again when it has ended.")


@dataclass
class _Claim:
    """The id and generation under which a successor is claimed."""

    row: dict[str, Any]  # the successor, as in `SUCCESSORS`
    arrival_id: str
    generation: int
    passed: set[str] = field(default_factory=set)  # the ids of arrivals that it succeeds beside the selected one
    is_new: bool = False

    def move_on(self, known: Any) -> bool:
        """Move to the next generation's id; return False if the known arrival has brought the object in already.

        An arrival that has a successor has not, unless it owns the instance: an object may be replaced, and then put
        back as it was.

        Raises
        ------
        LedgerError
            If a run that has not decided holds the known arrival or its successor.
        """
        if known.undecided is not None:
            raise LedgerError(
                f"Run {known.undecided!r} holds the object of a selected arrival and has not decided on it. Redrive "
                f"when that run has ended."
            )
        is_in = known.disposition not in STOPPED and (known.superseded_by is None or known.owns)
        if is_in and self.row["carries"] is None and self.arrival_id != self.row["chosen_id"]:
            return False
        if known.superseded_by is None:  # otherwise its successor is linked already
            self.passed.add(self.arrival_id)
        self.arrival_id = next_generation(self.arrival_id)
        self.generation = max(self.generation, known.generation + 1)
        return True

    @property
    def links(self) -> dict[str, str]:
        """Its own id, by the id of each arrival that it succeeds."""
        return dict.fromkeys({self.row["chosen_id"], *self.passed} - {self.arrival_id}, self.arrival_id)


def _find_ids(connection: Connection, pipeline: str, successors: pl.DataFrame) -> list[_Claim]:
    """Find a free id for each successor, or the id of the arrival that has brought its object in."""
    rows = successors.iter_rows(named=True)
    claims = [_Claim(row, row["arrival_id"], row["generation"]) for row in rows]
    underway = claims
    while underway:
        known = _read_known(connection, pipeline, [claim.arrival_id for claim in underway])
        for claim in underway:
            claim.is_new = claim.arrival_id not in known
        underway = [claim for claim in underway if not claim.is_new and claim.move_on(known[claim.arrival_id])]
    return claims


def _read_known(connection: Connection, pipeline: str, ids: list[str]) -> dict[str, Any]:
    """Return the ledger's rows by id, with the run that has not decided on each or on its successor."""
    rows = stage(connection, pl.DataFrame({"arrival_id": ids}, schema=_IDS).unique(), _IDS, ["arrival_id"])
    undecided = case(
        (states.c.disposition.is_(None), states.c.run_key),
        (_successor.c.disposition.is_(None), _successor.c.run_key),
    )
    columns = [states.c[name] for name in ("arrival_id", "disposition", "generation", "superseded_by")]
    statement = (
        select(*columns, undecided.label("undecided"), exists().where(_OWNS).label("owns"))
        .outerjoin(_successor, _REPLACED)
        .where(states.c.pipeline == pipeline, states.c.arrival_id.in_(select(rows.c.arrival_id)))
    )
    return {row.arrival_id: row for row in connection.execute(statement)}


def _insert(connection: Connection, pipeline: str, run_key: str, claims: list[_Claim]) -> dict[str, int]:
    """Insert the new rows, one per object; return how many are to be read and how many are carried on.

    If two selected arrivals have the same object and one has it in the data store, it is carried on.
    """
    new = [
        claim.row | {"arrival_id": claim.arrival_id, "generation": claim.generation} for claim in claims if claim.is_new
    ]
    rows = pl.DataFrame(new, schema=SUCCESSORS).with_columns(pl.col("generation").max().over("arrival_id"))
    rows = rows.sort("carries", nulls_last=True, maintain_order=True)
    rows = rows.unique("arrival_id", keep="first", maintain_order=True)
    staged = stage(connection, rows, _INSERTED, ["arrival_id"])
    chosen = and_(arrivals.c.arrival_id == staged.c.chosen_id, arrivals.c.pipeline == pipeline)
    inserted = stage_query(
        connection,
        select(*(arrivals.c.site if name == "site" else staged.c[name] for name in _NEW)).join_from(
            staged, arrivals, chosen
        ),
        _NEW,
        ["arrival_id"],
    )
    record_newest(connection, pipeline, inserted)
    constants: dict[str, Any] = {"pipeline": pipeline, "run_key": run_key, "claimed_at": clock.now()}
    insert_missing(connection, arrivals, inserted, ["arrival_id", "pipeline"], **constants)
    take_owed(connection, pipeline, run_key, inserted)
    carried = rows["carries"].count()
    return {"taken": rows.height - carried, "carried": carried}


def _link(connection: Connection, pipeline: str, claims: list[_Claim]) -> None:
    """Write each arrival's successor; an arrival that has brought its object in is current again.

    The earlier successor is kept, for a redrive that is given back.
    """
    _name_successors(connection, pipeline, {claim.arrival_id: None for claim in claims if not claim.is_new})
    links: dict[str, str | None] = {}
    for claim in claims:
        links |= claim.links
    _name_successors(connection, pipeline, links)


def _name_successors(connection: Connection, pipeline: str, links: dict[str, str | None]) -> None:
    rows = stage(connection, pl.DataFrame(list(links.items()), schema=_LINKS, orient="row"), _LINKS, ["arrival_id"])
    is_one = and_(successors.c.pipeline == pipeline, successors.c.arrival_id == rows.c.arrival_id)
    changes = successors.c.superseded_by.is_distinct_from(rows.c.superseded_by)
    values = {"superseded_by": rows.c.superseded_by, "superseded_before": successors.c.superseded_by}
    connection.execute(update(successors).where(is_one, changes).values(values))
    insert_missing(connection, successors, rows, ["arrival_id", "pipeline"], pipeline=pipeline)
