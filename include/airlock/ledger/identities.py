"""Whose study it is: Airlock's own matches and people's answers, in the decision log, and the questions to people.

An identity is the Patient that Airlock makes of an issuer and a PatientID, as ``Patient/<id>``. A question is a row per
study; the studies of one identity about which a person sees the same are answered together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, exists, func, insert, literal, literal_column, select, update

from airlock.ledger import clock
from airlock.ledger.columns import DecisionKind
from airlock.ledger.database import PartScope, Store
from airlock.ledger.decision_tables import AIRLOCK, BY_A_PERSON, decisions, identities, reviews
from airlock.ledger.frames import (
    fetch,
    fetch_by_values,
    forbid_plans,
    insert_missing,
    select_schema,
    stage,
    stage_query,
)
from airlock.ledger.journal import journaled
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Table

SCOPE = "identities"
OWN = "own"  # the answer: none of the data store's Patients
CONTRADICTED = "patient_contradicted"  # the reason of a question that holds a study

# What is known of a study's Patient; of a study in doubt, also what a person is asked.
MATCHES = schema(
    dict.fromkeys(("subject", "subject_key", "identity", "site", "seen", "answer", "outcome"), pl.String),
    {"reason": pl.String},  # of the question; null without one
    {"question": pl.String},  # JSON
)
ANSWERS = schema(
    {"id": pl.Int64},
    dict.fromkeys(("subject", "seen", "answer", "decided_by", "why"), pl.String),  # the subject is the identity
    {"decided_at": TIMESTAMP, "details": pl.String},
)
QUESTIONS = schema(
    {"id": pl.Int64},
    dict.fromkeys(("pipeline", "datastore_id", "subject", "subject_key"), pl.String),
    dict.fromkeys(("site", "reason", "seen", "question"), pl.String),
    {"asked_at": TIMESTAMP},
)
_IDENTITY = dict.fromkeys(("identity", "seen", "answer", "outcome"), pl.String)
_MATCHED = pl.Schema({"patient": pl.String})
_ANSWERED = pl.Schema({"answer": pl.String})
_ASKED_BY = pl.Schema({"subject": pl.String, "run_key": pl.String})
_PERSONS = schema(dict.fromkeys(("identity", "patient", "seen"), pl.String), {"decision_id": pl.Int64})
_IS_IDENTITY = decisions.c.kind == DecisionKind.IDENTITY.value
_BY_A_PERSON: ColumnElement[bool] = literal_column(f"({BY_A_PERSON})")  # literally the condition of the index
_IS_OPEN = reviews.c.answered_at.is_(None)
ABOUT_PATIENTS = reviews.c.reason.startswith("patient_", autoescape=True)


@dataclass(frozen=True)
class IdentityAnswer:
    """What a person decided on an identity; it counts as long as they would see the same."""

    identity: str
    seen: str
    patient: str | None  # Patient/<id>; None: none of the data store's Patients
    was: Sequence[str]  # the Patients that its studies had, each as Patient/<id>
    reason: str  # of the question, or "split"
    decided_by: str
    why: str
    decided_at: datetime  # aware
    studies: Sequence[str] = ()  # StudyInstanceUIDs of those that the decision is about; empty: all of the identity
    side: str | None = None  # what tells them from others of the identity, as `patient_match.digest_side`


def scope(datastore_id: str) -> PartScope:
    """Return the lock scope of writers about the identities of a HealthLake data store; see `database.writing`."""
    return PartScope(SCOPE, datastore_id)


class Identities(Store):
    """The ledger's methods about whose study it is; a data store is the HealthLake one."""

    @journaled()
    def record_matches(self, pipeline: str, datastore_id: str, run_key: str, matches: pl.DataFrame) -> int:
        """Record what a run has found about the Patients of studies; return how many questions are new.

        Each answer is in the decision log once. A study has at most one open question; one about other facts is closed,
        since the new one takes its place.

        Parameters
        ----------
        pipeline, datastore_id, run_key
            The run, and the data store in which it has looked.
        matches
            `MATCHES`, a row per study.
        """
        frame = select_schema(matches, MATCHES)
        given = {"pipeline": pipeline, "datastore_id": datastore_id, "run_key": run_key}
        with self._writing(scope(datastore_id)) as connection:
            _log_matches(connection, frame, given, clock.now())
            rows = stage(connection, frame, MATCHES, ["subject"])
            return _ask(connection, rows, given, clock.now())

    @journaled()
    def answer_identity(self, pipeline: str, datastore_id: str, answer: IdentityAnswer) -> int:
        """Add a person's decision to the decision log and close the questions that it answers; return their number."""
        values: dict[str, Any] = {
            "kind": DecisionKind.IDENTITY.value,
            "pipeline": pipeline,
            "datastore_id": datastore_id,
            "subject": answer.identity,
            "reason": answer.reason,
            "seen": answer.seen,
            "answer": answer.patient or OWN,
            "decided_by": answer.decided_by,
            "why": answer.why,
            "decided_at": answer.decided_at,
            "details": json.dumps({"was": list(answer.was), "studies": list(answer.studies), "side": answer.side}),
        }
        with self._writing(scope(datastore_id)) as connection:
            added = connection.execute(insert(decisions).values(values)).inserted_primary_key
            assert added is not None  # noqa: S101  # for mypy: one row was inserted
            _note_person(connection, datastore_id, answer, int(added[0]))
            named = reviews.c.question.contains(json.dumps(answer.identity), autoescape=True)
            same = reviews.c.seen == answer.seen, reviews.c.datastore_id == datastore_id, named
            closed = update(reviews).where(_IS_OPEN, ABOUT_PATIENTS, *same)
            return connection.execute(closed.values(answered_at=clock.now(), decision_id=added[0])).rowcount

    def identity_answers(self, datastore_id: str, names: pl.Series) -> pl.DataFrame:
        """Return people's decisions on these identities, as `ANSWERS`, the earliest first."""
        conditions = _BY_A_PERSON, decisions.c.datastore_id == datastore_id
        with self._reading() as connection:
            found = fetch_by_values(connection, decisions, ANSWERS, names, "subject", *conditions)
        return found.sort("decided_at", "id")

    def identity_answers_since(self, datastore_id: str, since: datetime | None) -> pl.DataFrame:
        """Return people's decisions since a time, or all, as `ANSWERS`, the earliest first."""
        conditions: list[ColumnElement[bool]] = [_BY_A_PERSON, decisions.c.datastore_id == datastore_id]
        if since is not None:
            conditions.append(decisions.c.decided_at >= since)
        with self._reading() as connection:
            statement = select(*(decisions.c[name] for name in ANSWERS)).where(*conditions)
            return fetch(connection, statement, ANSWERS).sort("decided_at", "id")

    def identity_questions(self, datastore_id: str | None = None, pipeline: str | None = None) -> pl.DataFrame:
        """Return the open questions about the Patients of studies, as `QUESTIONS`, the oldest first."""
        named = {"datastore_id": datastore_id, "pipeline": pipeline}
        conditions = [reviews.c[name] == value for name, value in named.items() if value is not None]
        with self._reading() as connection:
            statement = select(*(reviews.c[name] for name in QUESTIONS))
            return fetch(connection, statement.where(_IS_OPEN, ABOUT_PATIENTS, *conditions), QUESTIONS).sort("id")

    def newly_contradicted(self, datastore_id: str, pipeline: str, since: datetime | None) -> pl.Series:
        """Return the keys of the studies whose orders were found another patient's since a time; all without one.

        A question that only took the place of another one, since other facts were seen, is not new.
        """
        before = reviews.alias("before")
        goes_on = exists().where(
            before.c.subject == reviews.c.subject,
            before.c.datastore_id == reviews.c.datastore_id,
            before.c.reason == CONTRADICTED,
            before.c.answered_at == reviews.c.asked_at,
        )
        asked = [reviews.c.pipeline == pipeline, reviews.c.datastore_id == datastore_id]
        asked += [] if since is None else [reviews.c.asked_at >= since, ~goes_on]
        statement = select(reviews.c.subject_key).where(_IS_OPEN, reviews.c.reason == CONTRADICTED, *asked)
        with self._reading() as connection:
            return fetch(connection, statement, pl.Schema({"subject_key": pl.String}))["subject_key"]

    def contradicted_elsewhere(self, datastore_id: str, pipeline: str, studies: pl.Series) -> list[tuple[str, str]]:
        """Return those of these studies whose order another pipeline has found another patient's, each with its run."""
        conditions = _IS_OPEN, reviews.c.reason == CONTRADICTED, reviews.c.datastore_id == datastore_id
        with self._reading() as connection:
            others = (*conditions, reviews.c.pipeline != pipeline)
            found = fetch_by_values(connection, reviews, _ASKED_BY, studies, "subject", *others)
        return sorted(found.select("subject", "run_key").iter_rows())

    def persons_of(self, datastore_id: str, names: pl.Series) -> set[str]:
        """Return the existing Patients, as ``Patient/<id>``, that these identities were matched with last."""
        conditions = identities.c.datastore_id == datastore_id, identities.c.revoked_by.is_(None)
        with self._reading() as connection:
            found = fetch_by_values(connection, identities, _MATCHED, names, "identity", *conditions)
        return set(found["patient"])

    def persons_ever_of(self, datastore_id: str, names: pl.Series) -> set[str]:
        """Return the existing Patients that studies of these identities were ever matched with, by rule or by people.

        The studies of one identity may have several: a person answers for some of them.
        """
        conditions = _IS_IDENTITY, decisions.c.datastore_id == datastore_id, decisions.c.answer != OWN
        with self._reading() as connection:
            found = fetch_by_values(connection, decisions, _ANSWERED, names, "subject", *conditions)
        return set(found["answer"])

    @journaled()
    def record_reveal(self, pipeline: str, datastore_id: str, subject_key: str, *, person: str, why: str) -> None:
        """Add to the decision log that a person has seen a patient's identifiers."""
        values: dict[str, Any] = {"kind": DecisionKind.REVEAL.value, "pipeline": pipeline, "datastore_id": datastore_id}
        values |= {"subject_key": subject_key, "decided_by": person, "why": why}
        with self._writing(scope(datastore_id)) as connection:
            connection.execute(insert(decisions).values(values | {"decided_at": clock.now()}))


def _log_matches(connection: Connection, matches: pl.DataFrame, given: dict[str, Any], now: datetime) -> None:
    """Add Airlock's own answers that are not in the decision log, and note the person of each matched identity.

    A number that no Patient has is not a decision, and an archive has many such numbers.
    """
    decided = matches.filter(pl.col("outcome") != "none").select(*_IDENTITY).unique(maintain_order=True)
    rows = stage(connection, decided, pl.Schema(_IDENTITY), ["identity"])
    same = and_(
        _IS_IDENTITY,
        decisions.c.subject == rows.c.identity,
        decisions.c.datastore_id == given["datastore_id"],
        decisions.c.seen == rows.c.seen,
        decisions.c.answer == rows.c.answer,
    )
    constants = given | {
        "kind": DecisionKind.IDENTITY.value,
        "decided_by": AIRLOCK,
        "why": "by the rules of publish.patient_match",
        "decided_at": now,
    }
    values: dict[str, Any] = {"subject": rows.c.identity, "reason": rows.c.outcome}
    values |= {name: rows.c[name] for name in ("seen", "answer")}
    values |= {name: literal(value, decisions.c[name].type) for name, value in constants.items()}
    fresh = select(*values.values()).where(~exists().where(same))
    connection.execute(insert(decisions).from_select(list(values), fresh))
    last = func.max(decisions.c.id).label("decision_id")
    found = select(rows.c.identity, rows.c.answer, rows.c.seen, last).join_from(rows, decisions, same)
    matched = found.where(rows.c.answer != OWN).group_by(rows.c.identity, rows.c.answer, rows.c.seen)
    _replace_persons(connection, fetch(connection, matched, _PERSONS), given["datastore_id"])


def _replace_persons(connection: Connection, persons: pl.DataFrame, datastore_id: str) -> None:
    one_each = persons.sort("decision_id").unique("identity", keep="last", maintain_order=True)
    rows = stage(connection, one_each, _PERSONS, ["identity"])
    here = and_(identities.c.identity == rows.c.identity, identities.c.datastore_id == datastore_id)
    values: dict[str, Any] = {name: rows.c[name] for name in ("patient", "seen", "decision_id")}
    connection.execute(update(identities).where(here).values(values | {"revoked_by": None}))
    insert_missing(connection, identities, rows, ["identity", "datastore_id"], datastore_id=datastore_id)


def _note_person(connection: Connection, datastore_id: str, answer: IdentityAnswer, decision_id: int) -> None:
    """Note the person that somebody has chosen for an identity, or that they have revoked it."""
    if answer.patient is not None:
        row = (answer.identity, answer.patient, answer.seen, decision_id)
        _replace_persons(connection, pl.DataFrame([row], schema=_PERSONS, orient="row"), datastore_id)
        return
    here = identities.c.identity == answer.identity, identities.c.datastore_id == datastore_id
    connection.execute(update(identities).where(*here).values(revoked_by=decision_id))


def _ask(connection: Connection, rows: Table, given: dict[str, Any], now: datetime) -> int:
    """Close questions that are asked no longer, or about other facts, and add new ones; return their number."""
    about = and_(reviews.c.subject == rows.c.subject, reviews.c.datastore_id == given["datastore_id"], ABOUT_PATIENTS)
    same = and_(about, _IS_OPEN, reviews.c.reason == rows.c.reason, reviews.c.seen == rows.c.seen)
    looked = reviews.c.subject.in_(select(rows.c.subject)), reviews.c.datastore_id == given["datastore_id"]
    still = exists(select(rows.c.subject).where(same))
    closed = update(reviews).where(_IS_OPEN, ABOUT_PATIENTS, *looked, ~still).values(answered_at=now)
    with forbid_plans(connection, "hashjoin", "mergejoin"):  # the subjects are looked up, whatever else is asked
        connection.execute(closed)
    names = ("subject", "subject_key", "site", "reason", "seen", "question")
    new = select(*(rows.c[name] for name in names)).where(rows.c.reason.is_not(None), ~exists().where(same))
    found = stage_query(connection, new, pl.Schema(dict.fromkeys(names, pl.String)))
    return insert_missing(connection, reviews, found, ["id"], **given, asked_at=now)
