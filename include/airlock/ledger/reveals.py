"""Reveals: who looked at identifiers, of what, when and why. They are rows of the decision log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from airlock.ledger.clock import database_time
from airlock.ledger.columns import DecisionKind
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import decisions
from airlock.ledger.errors import LedgerError
from airlock.ledger.journal import journaled

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from typing import Any

SCOPE = "reveals"
MOST_SHOWN = 20


class Reveals(Store):
    """The ledger's methods about looks of people at pages; those at a terminal are in `Identities.record_reveal`."""

    @journaled()
    def log_reveal(self, pipeline: str, subject_key: str | None, *, person: str, why: str) -> None:
        """Record that a person is about to see identifiers of a pipeline; call it before they are shown.

        Parameters
        ----------
        pipeline
            The pipeline whose rows are shown.
        subject_key
            The key of the study or patient; None if what is shown has none.
        person, why
            The person and their reason.

        Raises
        ------
        LedgerError
            If person or reason is empty. Nothing is recorded.
        """
        if not person.strip() or not why.strip():
            raise LedgerError("a reveal needs a person and a reason: give both")
        with self._writing(SCOPE) as connection:
            values = {"kind": DecisionKind.REVEAL.value, "pipeline": pipeline, "subject_key": subject_key}
            values |= {"decided_by": person, "why": why, "details": json.dumps({"by": "console"})}
            connection.execute(insert(decisions).values(values | {"decided_at": database_time(connection)}))

    def reveals_of(self, pipelines: Collection[str], subject_key: str) -> list[tuple[datetime, str, str]]:
        """Return when, by whom and why identifiers of a subject were shown, the latest first, at most `MOST_SHOWN`."""
        columns: tuple[Any, ...] = decisions.c.decided_at, decisions.c.decided_by, decisions.c.why
        statement = (
            select(*columns)
            .where(
                decisions.c.kind == DecisionKind.REVEAL.value,
                decisions.c.subject_key == subject_key,
                decisions.c.pipeline.in_(pipelines),
            )
            .order_by(decisions.c.id.desc())
            .limit(MOST_SHOWN)
        )
        with self._reading() as connection:
            return [tuple(row) for row in connection.execute(statement)]
