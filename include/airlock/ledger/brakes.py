"""Answers to the brake's questions, and the totals of a pipeline's last nights that it compares a run with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, func, insert, select

from airlock.ledger.columns import DecisionKind
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import decisions
from airlock.ledger.frames import fetch
from airlock.ledger.journal import journaled
from airlock.ledger.runs import need_run
from airlock.ledger.tables import redrives, run_totals, runs
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from datetime import datetime

SCOPE = "brakes"
GO_ON, STOP = "go_on", "stop"
NIGHT_TOTALS = schema(
    {
        "started_at": TIMESTAMP,  # of the run
        "site": pl.String,
        "disposition": pl.String,
        "reason": pl.String,
        "arrivals": pl.Int64,
    }
)


@dataclass(frozen=True)
class BrakeAnswer:
    """What a person decided about a run that stopped."""

    gate: str  # import or route, after the folder of a second chain of stages
    go_on: bool
    measure: str  # what stopped the run
    share: float  # of the run; a higher one is another question
    decided_by: str
    why: str
    decided_at: datetime
    details: dict[str, Any]


class Brakes(Store):
    """The ledger's methods about the brake."""

    @journaled()
    def answer_brake(self, pipeline: str, run_key: str, answer: BrakeAnswer) -> None:
        """Add an answer to the decision log.

        Raises
        ------
        LedgerError
            If the run is unknown.
        """
        values = {
            "kind": DecisionKind.BRAKE.value,
            "pipeline": pipeline,
            "run_key": run_key,
            "subject": answer.gate,
            "reason": answer.measure,
            "seen": repr(answer.share),
            "answer": GO_ON if answer.go_on else STOP,
            "decided_by": answer.decided_by,
            "why": answer.why,
            "decided_at": answer.decided_at,
            "details": json.dumps(answer.details),
        }
        with self._writing(SCOPE) as connection:
            need_run(connection, run_key, pipeline)
            connection.execute(insert(decisions).values(values))

    def last_brake_answer(self, run_key: str, gate: str, measure: str) -> BrakeAnswer | None:
        """Return the last answer about a measure of a run at a gate; None if nobody has answered."""
        statement = (
            select(decisions)
            .where(
                decisions.c.run_key == run_key,
                decisions.c.kind == DecisionKind.BRAKE.value,
                decisions.c.subject == gate,
                decisions.c.reason == measure,
            )
            .order_by(decisions.c.id.desc())
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return None
        facts = {"gate": gate, "go_on": row.answer == GO_ON, "measure": measure, "share": float(row.seen)}
        by = {"decided_by": row.decided_by, "why": row.why, "decided_at": row.decided_at}
        return BrakeAnswer(**facts, **by, details=json.loads(row.details))

    def night_totals(self, pipeline: str, since: datetime, except_run: str) -> pl.DataFrame:
        """Return how many arrivals of a pipeline's runs since then have each disposition and reason, by site.

        Redrives do not count: they have only what was bad before.

        Parameters
        ----------
        pipeline
            The pipeline.
        since
            Runs that started before are left out.
        except_run
            A run that is left out too.

        Returns
        -------
        polars.DataFrame
            `NIGHT_TOTALS`.
        """
        of_run = and_(runs.c.run_key == run_totals.c.run_key, runs.c.started_at >= since)
        groups = (runs.c.started_at, run_totals.c.site, run_totals.c.disposition, run_totals.c.reason)
        redriven = select(redrives.c.run_key)
        statement = (
            select(*groups, func.sum(run_totals.c.arrivals))
            .join_from(run_totals, runs, of_run)
            .where(
                run_totals.c.pipeline == pipeline,
                run_totals.c.said_at >= since,  # by the index; a word is said after its run has started
                run_totals.c.run_key != except_run,
                run_totals.c.run_key.not_in(redriven),
            )
            .group_by(*groups)
        )
        with self._reading() as connection:
            return fetch(connection, statement, NIGHT_TOTALS)
