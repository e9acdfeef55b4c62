"""Counts of what is open in a data store, for the impact of a pipeline's rules."""

from __future__ import annotations

from sqlalchemy import func, select

from airlock.ledger.database import Store
from airlock.ledger.tables import in_flight


class Impacts(Store):
    """The ledger's counts of open studies and patients."""

    def count_flights(self, datastore_id: str) -> int:
        """Return of how many studies a run has files that it has not settled."""
        counted = func.count(in_flight.c.study_key.distinct())
        with self._reading() as connection:
            return connection.execute(select(counted).where(in_flight.c.datastore_id == datastore_id)).scalar_one()
