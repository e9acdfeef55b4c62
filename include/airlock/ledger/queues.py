"""The messages of destinations that wait or were given up, in numbers, for people: from the indexes of what is open."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text

from airlock.ledger.columns import ComparisonKind, MessageState
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


@dataclass(frozen=True)
class LastSweep:
    """The last sweep of a pipeline that has ended."""

    ended_at: datetime
    untaken: int  # objects that no run had taken: young, overdue, or owed
    others: dict[str, int]  # files other than images, by the ends of their names
    began_at: datetime  # objects stored after it may be missing from it


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

    def last_sweeps(self, pipelines: Collection[str]) -> dict[str, LastSweep]:
        """Return the last sweep of each pipeline that has ended."""
        ended = comparisons.c.kind == ComparisonKind.SWEEP.value, comparisons.c.ended_at.is_not(None)
        newest = (
            select(func.max(comparisons.c.id))
            .where(comparisons.c.pipeline.in_(pipelines), *ended)
            .group_by(comparisons.c.pipeline)
        )
        facts = comparisons.c.pipeline, comparisons.c.began_at, comparisons.c.ended_at, comparisons.c.counts
        with self._reading() as connection:
            rows = connection.execute(select(*facts).where(comparisons.c.id.in_(newest)))
            return {row[0]: _read_sweep(row[1], row[2], json.loads(row[3] or "{}")) for row in rows}


def _read_sweep(began_at: datetime, ended_at: datetime, counts: dict[str, Any]) -> LastSweep:
    """Return what the sweep's counts say, a `sweep_work.Counts`."""
    untaken = sum(site["young"] + site["overdue"] for site in counts.get("sites", {}).values())
    return LastSweep(ended_at, untaken + counts.get("owed", 0), counts.get("others", {}), began_at)
