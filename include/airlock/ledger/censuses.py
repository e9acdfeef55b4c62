"""Censuses: dated counts of an archive by site and month, the denominator of every percentage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, func, insert, select

from airlock.ledger.database import Store
from airlock.ledger.tables import census

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

NO_MONTH = ""  # of objects whose key has no valid date
SCOPE = "census"


@dataclass(frozen=True)
class Counted:
    """The objects of a site and a month."""

    site: str
    month: str  # YYYY-MM, or `NO_MONTH`
    objects: int
    bytes: int


@dataclass(frozen=True)
class CensusRow:
    """A count of the latest census of a pipeline."""

    pipeline: str
    site: str
    month: str
    objects: int
    bytes: int
    method: str
    counted_at: datetime


class Censuses(Store):
    """The ledger's methods about censuses."""

    def record_census(
        self, pipeline: str, source_uri: str, method: str, counted_at: datetime, counted: Iterable[Counted]
    ) -> int:
        """Record what was counted below a source; the same census is recorded once. Return the number of rows.

        Parameters
        ----------
        pipeline, source_uri
            The pipeline and its source.
        method
            ``listing``, ``inventory`` or ``plan``.
        counted_at
            When the count began.
        counted
            The counts.
        """
        head = {"pipeline": pipeline, "source_uri": source_uri, "method": method, "counted_at": counted_at}
        rows = [head | vars(one) for one in counted]
        same = and_(census.c.pipeline == pipeline, census.c.counted_at == counted_at)
        with self._writing(SCOPE) as connection:
            if not rows or connection.scalar(select(census.c.id).where(same).limit(1)) is not None:
                return 0
            connection.execute(insert(census), rows)
        return len(rows)

    def latest_census(self, pipelines: Collection[str]) -> list[CensusRow]:
        """Return the latest census of each pipeline, by site and month."""
        newest = (
            select(census.c.pipeline, func.max(census.c.counted_at).label("at"))
            .where(census.c.pipeline.in_(pipelines))
            .group_by(census.c.pipeline)
            .subquery("newest")
        )
        names = ("pipeline", "site", "month", "objects", "bytes", "method", "counted_at")
        statement = (
            select(*(census.c[name] for name in names))
            .join(newest, and_(newest.c.pipeline == census.c.pipeline, newest.c.at == census.c.counted_at))
            .order_by(census.c.pipeline, census.c.site, census.c.month)
        )
        with self._reading() as connection:
            return [CensusRow(*row) for row in connection.execute(statement)]
