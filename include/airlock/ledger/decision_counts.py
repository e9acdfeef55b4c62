"""How often people released holds and wrote off what a data store lacks, by person, for people who look over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select, union_all

from airlock.ledger.columns import DecisionKind
from airlock.ledger.database import Store
from airlock.ledger.decision_tables import decisions
from airlock.ledger.tables import runs

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True)
class DecisionCount:
    """The decisions of a person on a pipeline."""

    person: str
    overrides: int  # of holds
    write_offs: int  # of studies: `airlock ledger forget`


class DecisionCounts(Store):
    """The ledger's method about the number of decisions."""

    def count_decisions(self, pipeline: str, since: datetime) -> list[DecisionCount]:
        """Count the overrides and write-offs of a pipeline since a time, by person, who did most of it first.

        Both are found by the index of runs and kinds: an override has the run that holds, a write-off has none.
        """
        columns, new = (decisions.c.decided_by, decisions.c.kind), decisions.c.decided_at >= since
        overrides = (
            select(*columns)
            .join_from(runs, decisions, decisions.c.run_key == runs.c.run_key)
            .where(runs.c.pipeline == pipeline, decisions.c.kind == DecisionKind.OVERRIDE.value, new)
        )
        of_no_run = decisions.c.run_key.is_(None), decisions.c.kind == DecisionKind.FORGET.value
        write_offs = select(*columns).where(*of_no_run, decisions.c.pipeline == pipeline, new)
        each = union_all(overrides, write_offs).subquery()
        sums = [func.count().filter(each.c.kind == kind.value) for kind in (DecisionKind.OVERRIDE, DecisionKind.FORGET)]
        order = func.count().desc(), each.c.decided_by
        statement = select(each.c.decided_by, *sums).group_by(each.c.decided_by).order_by(*order)
        with self._reading() as connection:
            return [DecisionCount(*row) for row in connection.execute(statement)]
