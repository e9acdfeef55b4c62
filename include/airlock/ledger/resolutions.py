"""Resolutions: how far a redrive has come in promoting or deleting a non-primary image set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, insert, select, update

from airlock.ledger import clock
from airlock.ledger.columns import Resolution, ResolutionState
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.journal import journaled
from airlock.ledger.tables import instances, resolutions


@dataclass(frozen=True)
class ResolutionRecord:
    """How far the resolution of a non-primary image set has come."""

    image_set_id: str
    datastore_id: str
    run_key: str
    resolution: Resolution
    state: ResolutionState
    promoted_id: str | None  # the primary image set that has the instances now
    promoted_version: int | None
    versions_before: dict[str, int]  # of the study's primary image sets, when the copy was asked for


class Resolutions(Store):
    """The ledger's part about resolutions."""

    @journaled()
    def begin_resolution(
        self, datastore_id: str, run_key: str, image_set_id: str, resolution: Resolution
    ) -> ResolutionRecord:
        """Record that a redrive resolves an image set, if it is new; return how far the resolution has come.

        Raises
        ------
        LedgerError
            If another run has begun to resolve it.
        """
        values = {"run_key": run_key, "resolution": resolution.value, "state": ResolutionState.BEGUN.value}
        key = {"image_set_id": image_set_id, "datastore_id": datastore_id}
        with self._writing("resolutions") as connection:
            found = select(resolutions).where(*(resolutions.c[name] == value for name, value in key.items()))
            row = connection.execute(found).mappings().one_or_none()
            if row is None:
                connection.execute(insert(resolutions).values(**key, **values, begun_at=clock.now()))
                row = connection.execute(found).mappings().one()
            if row["run_key"] != run_key:
                raise LedgerError(
                    f"Image set {image_set_id} is resolved by run {row['run_key']!r}. See that run's report."
                )
            return _record(row)

    @journaled()
    def advance_resolution(
        self,
        record: ResolutionRecord,
        state: ResolutionState,
        promoted_id: str | None = None,
        promoted_version: int | None = None,
        versions_before: dict[str, int] | None = None,
    ) -> ResolutionRecord:
        """Record the next step of a resolution; BEGUN clears the steps before.

        When an image set is deleted for good, its instances are deleted from the ledger.
        """
        this = and_(
            resolutions.c.image_set_id == record.image_set_id, resolutions.c.datastore_id == record.datastore_id
        )
        done = state is ResolutionState.DONE
        versions = None if versions_before is None else json.dumps(versions_before)
        named = {"promoted_id": promoted_id, "promoted_version": promoted_version, "versions_before": versions}
        if state is not ResolutionState.BEGUN:
            named = {name: value for name, value in named.items() if value is not None}
        with self._writing("resolutions", "instances") as connection:
            times = {"ended_at": clock.now()} if done else {}
            connection.execute(update(resolutions).where(this).values(state=state.value, **named, **times))
            if done and record.resolution is Resolution.DELETE:
                inside = instances.c.image_set_id == record.image_set_id
                connection.execute(delete(instances).where(inside, instances.c.datastore_id == record.datastore_id))
            return _record(connection.execute(select(resolutions).where(this)).mappings().one())

    def resolutions_of(self, run_key: str) -> list[ResolutionRecord]:
        """Return a redrive's resolutions of non-primary image sets, sorted by their ids."""
        statement = select(resolutions).where(resolutions.c.run_key == run_key).order_by(resolutions.c.image_set_id)
        with self._reading() as connection:
            return [_record(row) for row in connection.execute(statement).mappings()]


def _record(row: Any) -> ResolutionRecord:
    read = {
        "resolution": Resolution(row["resolution"]),
        "state": ResolutionState(row["state"]),
        "versions_before": json.loads(row["versions_before"] or "{}"),
    }
    return ResolutionRecord(**{name: row[name] for name in ResolutionRecord.__dataclass_fields__} | read)
