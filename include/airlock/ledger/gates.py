"""The gates: an audit's decision per subject, and people's overrides of holds.

A subject is a study, named by its StudyInstanceUID, or a patient or a file of a clinical pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, case, exists, func, insert, literal, or_, select, update

from airlock.ledger import clock
from airlock.ledger.columns import DecisionKind
from airlock.ledger.database import PartScope, Store
from airlock.ledger.decision_tables import decisions, reviews
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import fetch, insert_missing, select_schema, stage, stage_values
from airlock.ledger.journal import journaled
from airlock.ledger.runs import need_run
from airlock.ledger.tables import gates
from airlock.records import HOLDS, TIMESTAMP, Gate, schema

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Exists, FromClause, Table

GATES = pl.Schema(
    {
        "subject": pl.String,
        "subject_key": pl.String,
        "gate": pl.String,
        "reason": pl.String,  # a Reason where the gate is hold, else null
    }
)
DECISIONS = schema(
    GATES,
    {
        "run_key": pl.String,
        "released": pl.Boolean,  # by the gate, or by a person
        "decided_at": TIMESTAMP,
    },
)
_WRITTEN = {"reasons": pl.String}  # joined by commas
_TEXT = dict.fromkeys(("findings", "overridden_by", "override_reason"), pl.String)
OVERRIDES = schema(
    {"subject": pl.String, "reason": pl.String},  # the reason of the hold
    {"reasons": pl.List(pl.String)},
    _TEXT,
    {"overridden_at": TIMESTAMP},
)
_HOLDS = schema(HOLDS, _WRITTEN)
SCOPE = "gates"
_IS_OVERRIDE = decisions.c.kind == DecisionKind.OVERRIDE.value
_closed = reviews.alias("closed")
_HAS_LAPSED = and_(  # its review was closed without an answer that counts: `reviews.Reviews.close_approvals`
    ~exists(
        select(reviews.c.id).where(
            *(reviews.c[name] == decisions.c[name] for name in ("subject", "datastore_id")),
            reviews.c.decision_id == decisions.c.id,
        )
    ),
    exists(
        select(_closed.c.id).where(
            *(_closed.c[name] == decisions.c[name] for name in ("datastore_id", "subject", "run_key", "seen")),
            _closed.c.decision_id.is_(None),
            _closed.c.asked_at <= decisions.c.decided_at,
            _closed.c.answered_at >= decisions.c.decided_at,
        )
    ),
)
# The columns of the decision log that hold what an override says.
_LOGGED = {"findings": "seen", "overridden_by": "decided_by", "override_reason": "why", "overridden_at": "decided_at"}


def scope(datastore_id: str) -> PartScope:
    """Return the lock scope of writers of a data store's gates and of their overrides; see `database.writing`."""
    return PartScope(SCOPE, datastore_id)


def overridden(held: FromClause) -> Exists:
    """Return the condition that a person overrode the hold of a gate."""
    return exists().where(
        _IS_OVERRIDE,
        # An override with findings counts in the next audit with the same findings, which then writes a release.
        decisions.c.seen.is_(None),
        decisions.c.datastore_id == held.c.datastore_id,
        decisions.c.subject == held.c.subject,
        decisions.c.run_key == held.c.run_key,
        decisions.c.reason.is_not_distinct_from(held.c.reason),
        decisions.c.decided_at >= held.c.decided_at,  # a hold after a release is a new hold
    )


def released(decided: FromClause) -> ColumnElement[bool]:
    """Return the condition that the gate or a person released the subject."""
    return or_(decided.c.gate == Gate.RELEASE, overridden(decided))


_RELEASED = released(gates)
_DECISION: list[Any] = [_RELEASED if name == "released" else gates.c[name] for name in DECISIONS]


def _shape_gates(decided: pl.DataFrame) -> pl.DataFrame:
    frame = select_schema(decided, GATES)
    unknown = frame.filter(~pl.col("gate").is_in(list(Gate)).fill_null(value=False)).height
    if unknown:
        raise LedgerError(f"{unknown} subjects have no known gate: use one of {', '.join(Gate)}")
    doubled = frame.height - frame["subject"].n_unique()
    if doubled:
        raise LedgerError(f"{doubled} subjects have more than one gate: give each exactly one")
    return frame


def _need_person_and_reason(person: str, why: str) -> None:
    if not person.strip() or not why.strip():
        raise LedgerError("an override needs a person and a reason: give both")


def _is_gate_of(datastore_id: str, run_key: str, rows: Table) -> Any:
    return and_(
        gates.c.datastore_id == datastore_id,
        gates.c.run_key == run_key,
        gates.c.subject == rows.c.subject,
    )


class Gates(Store):
    """The ledger's methods about gates."""

    @journaled()
    def record_gates(self, datastore_id: str, run_key: str, decided: pl.DataFrame) -> None:
        """Write a run's decisions over its earlier ones; an unchanged decision keeps its time.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run.
        decided
            `GATES`.

        Raises
        ------
        LedgerError
            If a subject has no known gate or more than one, or the run is unknown.
        """
        frame = _shape_gates(decided)
        with self._writing(scope(datastore_id)) as connection:
            need_run(connection, run_key)
            rows = stage(connection, frame, GATES, ["subject"])
            now = clock.now()
            same = and_(gates.c.gate == rows.c.gate, gates.c.reason.is_not_distinct_from(rows.c.reason))
            values: dict[str, Any] = {"gate": rows.c.gate, "reason": rows.c.reason, "subject_key": rows.c.subject_key}
            decided_at = case((same, gates.c.decided_at), else_=now)
            connection.execute(
                update(gates)
                .where(_is_gate_of(datastore_id, run_key, rows))
                .values(values | {"decided_at": decided_at})
            )
            constants: dict[str, Any] = {"datastore_id": datastore_id, "run_key": run_key, "decided_at": now}
            insert_missing(connection, gates, rows, ["datastore_id", "run_key", "subject"], **constants)

    @journaled()
    def override_holds(self, datastore_id: str, run_key: str, subjects: pl.Series, person: str, why: str) -> None:
        """Record a person's override of holds; it counts while the run holds the subject for the same reason.

        Only the journals of earlier versions have such overrides, and a rebuild repeats them. The same override of the
        same hold is written once, however often it is given.

        Parameters
        ----------
        datastore_id, run_key, subjects
            The data store, the run and the held subjects.
        person, why
            The person who decided, and their reason.

        Raises
        ------
        LedgerError
            If the run does not hold one of the subjects, or person or reason is empty. Nothing is written.
        """
        _need_person_and_reason(person, why)
        answer = {"kind": DecisionKind.OVERRIDE.value, "decided_by": person, "why": why}
        with self._writing(scope(datastore_id)) as connection:
            rows = stage_values(connection, subjects, "subject")
            held = and_(_is_gate_of(datastore_id, run_key, rows), gates.c.gate == Gate.HOLD)
            not_held = connection.scalar(select(func.count()).select_from(rows).where(~exists().where(held)))
            if not_held:
                raise LedgerError(f"run {run_key!r} does not hold {not_held} of these subjects: look at its gates")
            again = overridden(gates).where(*(decisions.c[name] == value for name, value in answer.items()))
            values = {
                **{name: gates.c[name] for name in ("datastore_id", "subject", "subject_key", "run_key", "reason")},
                **{name: literal(value) for name, value in answer.items()},
                "decided_at": literal(clock.now(), decisions.c.decided_at.type),
            }
            fresh = select(*values.values()).join(rows, held).where(~again)
            connection.execute(insert(decisions).from_select(list(values), fresh))

    @journaled()
    def override_findings(
        self, datastore_id: str, run_key: str, holds: pl.DataFrame, *, person: str, why: str, at: datetime
    ) -> None:
        """Record a person's override of holds with their findings; it counts in audits with exactly these findings.

        The same override is written once, however often it is given.

        Parameters
        ----------
        datastore_id, run_key
            The data store and the run.
        holds
            The holds that the person saw, `records.HOLDS`.
        person, why, at
            The person who decided, their reason, and the time of their answer.

        Raises
        ------
        LedgerError
            If person or reason is empty, or the run is unknown.
        """
        _need_person_and_reason(person, why)
        written = holds.with_columns(pl.col("reasons").list.join(","))
        with self._writing(scope(datastore_id)) as connection:
            need_run(connection, run_key)
            rows = stage(connection, written, _HOLDS, ["subject"])

            values: dict[str, Any] = {_LOGGED.get(name, name): rows.c[name] for name in _HOLDS}
            given: dict[str, Any] = {"datastore_id": datastore_id, "run_key": run_key, "decided_at": at}
            given |= {"kind": DecisionKind.OVERRIDE.value, "decided_by": person, "why": why}
            values |= {name: literal(value, decisions.c[name].type) for name, value in given.items()}
            names = ("kind", "datastore_id", "run_key", "subject", "seen", "decided_by", "decided_at")
            again = exists().where(*(decisions.c[name] == values[name] for name in names))
            fresh = select(*values.values()).where(~again)
            connection.execute(insert(decisions).from_select(list(values), fresh))

    def overrides_of(self, datastore_id: str, run_key: str) -> pl.DataFrame:
        """Return people's overrides of a run's findings that count, as `OVERRIDES`, the earliest first.

        One whose review was closed since it did not count never counts again, although the findings may come back:
        people were told that its subject stays held, and are asked again.
        """
        return self._fetch_decisions(datastore_id, run_key, DecisionKind.OVERRIDE, ~_HAS_LAPSED)

    def keeps_of(self, datastore_id: str, run_key: str) -> pl.DataFrame:
        """Return people's decisions that holds of a run stay, in the form of `overrides_of`."""
        return self._fetch_decisions(datastore_id, run_key, DecisionKind.KEEP)

    def _fetch_decisions(
        self, datastore_id: str, run_key: str, kind: DecisionKind, *conditions: ColumnElement[bool]
    ) -> pl.DataFrame:
        statement = select(*(decisions.c[_LOGGED.get(name, name)] for name in OVERRIDES)).where(
            decisions.c.kind == kind.value,
            decisions.c.datastore_id == datastore_id,
            decisions.c.run_key == run_key,
            decisions.c.seen.is_not(None),
            *conditions,
        )
        with self._reading() as connection:
            ordered = statement.order_by(decisions.c.decided_at, decisions.c.id)
            found = fetch(connection, ordered, schema(OVERRIDES, _WRITTEN))
        return found.with_columns(pl.col("reasons").str.split(","))

    def gates_of(self, datastore_id: str, run_key: str) -> pl.DataFrame:
        """Return a run's gates with people's overrides applied, as `DECISIONS` sorted by subject key."""
        statement = select(*_DECISION).where(gates.c.datastore_id == datastore_id, gates.c.run_key == run_key)
        with self._reading() as connection:
            return fetch(connection, statement, DECISIONS).sort("subject_key")

    def released_before(self, datastore_id: str, subjects: pl.Series, except_run: str | None = None) -> pl.DataFrame:
        """Return the releases of these subjects by any run.

        Parameters
        ----------
        datastore_id
            The data store.
        subjects
            The subjects.
        except_run
            A run whose own releases are omitted.

        Returns
        -------
        polars.DataFrame
            `DECISIONS`, one row per subject and releasing run, the earliest first.
        """
        with self._reading() as connection:
            rows = stage_values(connection, subjects, "subject")
            statement = (
                select(*_DECISION)
                .join(rows, rows.c.subject == gates.c.subject)
                .where(gates.c.datastore_id == datastore_id, _RELEASED)
            )
            if except_run is not None:
                statement = statement.where(gates.c.run_key != except_run)
            return fetch(connection, statement, DECISIONS).sort("decided_at", "subject_key")
