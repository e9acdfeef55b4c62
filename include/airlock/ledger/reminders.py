"""Reminders: which reviews have waited for too long, and of which of them people have been told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, func, select, update

from airlock.ledger import clock
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import reviews
from airlock.ledger.reviews import ANSWERS, IS_ASKED, ReviewGroup

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from sqlalchemy import ColumnElement, Connection


@dataclass(frozen=True)
class Overdue:
    """The groups of reviews that are due for a reminder and for an escalation, and until when they were asked."""

    reminded: list[ReviewGroup]
    escalated: list[ReviewGroup]
    reminded_before: datetime
    escalated_before: datetime


class Reminders(Store):
    """The ledger's methods about reviews that wait for too long."""

    def find_overdue(self, pipeline: str, remind: timedelta, escalate: timedelta) -> Overdue:
        """Return the reviews that have waited for so long and of which nobody has been told: see `mark_overdue`."""
        with self._reading() as connection:
            now = clock.database_time(connection)
            reminded, escalated = (
                _group(connection, due) for due in _are_due(pipeline, now - remind, now - escalate).values()
            )
            return Overdue(reminded, escalated, now - remind, now - escalate)

    def mark_overdue(self, pipeline: str, told: Overdue) -> None:
        """Note that people have been told of overdue reviews. They are found again until then."""
        with self._writing(ANSWERS) as connection:
            now = clock.database_time(connection)
            for column, due in _are_due(pipeline, told.reminded_before, told.escalated_before).items():
                connection.execute(update(reviews).where(due).values({column: now}))


def _are_due(pipeline: str, remind: datetime, escalate: datetime) -> dict[str, ColumnElement[bool]]:
    """Return which reviews are due, by the column that notes when people were told."""
    return {
        column: and_(IS_ASKED, reviews.c.pipeline == pipeline, reviews.c.asked_at <= at, reviews.c[column].is_(None))
        for column, at in (("reminded_at", remind), ("escalated_at", escalate))
    }


def _group(connection: Connection, due: ColumnElement[bool]) -> list[ReviewGroup]:
    groups = reviews.c.pipeline, reviews.c.reason, reviews.c.site
    since = func.min(reviews.c.asked_at, type_=reviews.c.asked_at.type)
    counted = select(*groups, func.count(), since, func.max(reviews.c.assignee)).where(due).group_by(*groups)
    return [ReviewGroup(*row) for row in connection.execute(counted)]
