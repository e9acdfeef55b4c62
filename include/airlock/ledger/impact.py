"""Counts of what is open in a data store, for the impact of a pipeline's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from airlock.ledger.columns import OpenState
from airlock.ledger.database import Store
from airlock.ledger.tables import in_flight, open_resources, resources

if TYPE_CHECKING:
    from collections.abc import Collection


class Impacts(Store):
    """The ledger's counts of open studies and patients."""

    def count_flights(self, datastore_id: str) -> int:
        """Return of how many studies a run has files that it has not settled."""
        counted = func.count(in_flight.c.study_key.distinct())
        with self._reading() as connection:
            return connection.execute(select(counted).where(in_flight.c.datastore_id == datastore_id)).scalar_one()

    def count_incomplete_patients(self, datastore_id: str, types: Collection[str]) -> tuple[int, int]:
        """Return how many patients have a resource of these types that is not stored, and how many patients there are.

        A resource that only waits for a decision is in the data store.
        """
        missing = select(func.count(open_resources.c.patient.distinct())).where(
            open_resources.c.datastore_id == datastore_id,
            open_resources.c.resource_type.in_(sorted(types)),
            open_resources.c.state != OpenState.HELD.value,
        )
        of_store = (table.c.datastore_id == datastore_id for table in (resources, open_resources))
        known, unreleased = (
            select(table.c.patient).where(condition, table.c.patient.is_not(None))
            for table, condition in zip((resources, open_resources), of_store, strict=True)
        )
        patients = select(func.count()).select_from(known.union(unreleased).subquery())
        with self._reading() as connection:
            return connection.execute(missing).scalar_one(), connection.execute(patients).scalar_one()
