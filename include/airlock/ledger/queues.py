"""The messages of destinations that wait or were given up, in numbers, for people: from the indexes of what is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text

from airlock.ledger.columns import MessageState
from airlock.ledger.comparison_tables import comparisons, findings
from airlock.ledger.database import Store
from airlock.ledger.tables import OPEN_MESSAGE, OPEN_RELEASE, outbox, releases

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime


@dataclass(frozen=True)
class OpenMessages:
    """The messages of a pipeline to a destination that wait, or were given up, with the same last error."""

    pipeline: str
    destination: str
    state: MessageState
    error: str | None  # a code without data; None for messages that were not tried
    messages: int
    since: datetime  # when the oldest was queued
    next_attempt_at: datetime


@dataclass(frozen=True)
class Unrouted:
    """The released studies or patients of a pipeline that are not queued for any destination."""

    pipeline: str
    subjects: int
    unmatched: int  # of them, those that the task route has not matched with the rules yet
    since: datetime


@dataclass(frozen=True)
class SweepFinding:
    """Open differences that comparisons of a pipeline have found, by kind."""

    pipeline: str
    kind: str
    findings: int
    since: datetime


class Queues(Store):
    """The ledger's methods about queues, for people."""

    def open_by_destination(self, pipelines: Collection[str]) -> list[OpenMessages]:
        """Return the open messages of these pipelines, by destination, state and last error."""
        groups = outbox.c.pipeline, outbox.c.destination, outbox.c.state, outbox.c.last_error
        facts = func.count(), func.min(outbox.c.queued_at), func.min(outbox.c.next_attempt_at)
        statement = (
            select(*groups, *facts)
            .where(outbox.c.pipeline.in_(pipelines), text(f"outbox.{OPEN_MESSAGE}"))
            .group_by(*groups)
            .order_by(*groups)
        )
        with self._reading() as connection:
            return [
                OpenMessages(row[0], row[1], MessageState(row[2]), *row[3:]) for row in connection.execute(statement)
            ]

    def unrouted(self, pipelines: Collection[str]) -> list[Unrouted]:
        """Count the releases of these pipelines that are open."""
        unmatched = func.count().filter(releases.c.routes.is_(None))
        statement = (
            select(releases.c.pipeline, func.count(), unmatched, func.min(releases.c.released_at))
            .where(releases.c.pipeline.in_(pipelines), text(f"({OPEN_RELEASE})"))
            .group_by(releases.c.pipeline)
        )
        with self._reading() as connection:
            return [Unrouted(*row) for row in connection.execute(statement)]

    def open_findings(self, pipelines: Collection[str]) -> list[SweepFinding]:
        """Count the open findings about these pipelines, by kind."""
        groups = findings.c.pipeline, findings.c.kind
        statement = (
            select(*groups, func.count(), func.min(findings.c.found_at))
            .where(findings.c.pipeline.in_(pipelines), text("findings.closed_at IS NULL"))
            .group_by(*groups)
            .order_by(*groups)
        )
        with self._reading() as connection:
            return [SweepFinding(*row) for row in connection.execute(statement)]

    def last_comparisons(self, pipelines: Collection[str], kind: str) -> dict[str, datetime]:
        """Return when the last comparison of a kind ended, by pipeline."""
        statement = (
            select(comparisons.c.pipeline, func.max(comparisons.c.ended_at))
            .where(
                comparisons.c.pipeline.in_(pipelines), comparisons.c.kind == kind, comparisons.c.ended_at.is_not(None)
            )
            .group_by(comparisons.c.pipeline)
        )
        with self._reading() as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}
