"""The answers that people gave to reviews, for people who look how reviews are done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, func, select

from airlock.ledger.columns import DecisionKind
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import decisions, reviews

if TYPE_CHECKING:
    from datetime import datetime

MOST_ANSWERS = 10_000  # the latest, that a page reads
_GIVEN = (DecisionKind.OVERRIDE.value, DecisionKind.KEEP.value)


@dataclass(frozen=True)
class GivenAnswer:
    """An answer to a review."""

    person: str
    approved: bool
    decided_at: datetime
    opened_at: datetime | None  # when the person first opened the review; None if they answered without
    asked_again: bool  # whether there is a later review about the same subject


class Answers(Store):
    """The ledger's methods about answers to reviews."""

    def answers_since(self, pipeline: str, since: datetime) -> list[GivenAnswer]:
        """Return the answers to a pipeline's reviews since a time, the latest first, at most `MOST_ANSWERS`."""
        opening, later = decisions.alias("opening"), reviews.alias("later")
        about = "datastore_id", "subject", "run_key", "seen"
        same = (opening.c[name] == reviews.c[name] for name in about)
        by_person = opening.c.kind == DecisionKind.OPEN.value, opening.c.decided_by == decisions.c.decided_by
        opened = select(func.min(opening.c.decided_at, type_=decisions.c.decided_at.type)).where(*same, *by_person)
        of_subject = later.c.subject == reviews.c.subject, later.c.datastore_id == reviews.c.datastore_id
        again = exists(select(later.c.id).where(*of_subject, later.c.asked_at > decisions.c.decided_at))
        given = and_(decisions.c.kind.in_(_GIVEN), decisions.c.decided_at >= since)
        statement = (
            select(decisions.c.decided_by, decisions.c.kind, decisions.c.decided_at)
            .add_columns(opened.scalar_subquery(), again)
            .join_from(reviews, decisions, decisions.c.id == reviews.c.decision_id)
            .where(reviews.c.pipeline == pipeline, given)
            .order_by(decisions.c.id.desc())
            .limit(MOST_ANSWERS)
        )
        with self._reading() as connection:
            return [
                GivenAnswer(row[0], row[1] == DecisionKind.OVERRIDE.value, row[2], row[3], bool(row[4]))
                for row in connection.execute(statement)
            ]
