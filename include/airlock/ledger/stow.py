"""The answers of DICOMweb servers per instance, so that an interrupted route continues where it stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import and_, delete, exists, select

from airlock.ledger.database import Store
from airlock.ledger.frames import fetch_by_values, insert_missing, stage
from airlock.ledger.journal import journaled
from airlock.ledger.tables import stow_instances

if TYPE_CHECKING:
    from datetime import datetime

STOW_INSTANCES = pl.Schema({"SOPInstanceUID": pl.String, "etag": pl.String, "state": pl.String, "code": pl.String})


class Stow(Store):
    """The ledger's methods about instances that were sent to DICOMweb servers."""

    def stow_instances(self, destination: str, uids: pl.Series) -> pl.DataFrame:
        """Return a destination's last answers about these SOP Instance UIDs; no row for an instance never sent to it.

        Returns
        -------
        polars.DataFrame
            `STOW_INSTANCES`, sorted by SOPInstanceUID.
        """
        with self._reading() as connection:
            here = stow_instances.c.destination == destination
            found = fetch_by_values(connection, stow_instances, STOW_INSTANCES, uids, "SOPInstanceUID", here)
            return found.sort("SOPInstanceUID")

    @journaled()
    def decide_stow_instances(self, destination: str, decided: pl.DataFrame, now: datetime) -> None:
        """Record a destination's answers about instances, `STOW_INSTANCES`, over its earlier answers."""
        with self._writing(f"instances at {destination}") as connection:
            rows = stage(connection, decided, STOW_INSTANCES, ["SOPInstanceUID"])
            twin = stow_instances.c.SOPInstanceUID == rows.c.SOPInstanceUID
            here = stow_instances.c.destination == destination
            connection.execute(
                delete(stow_instances).where(and_(here, exists(select(rows.c.SOPInstanceUID).where(twin))))
            )
            key = ["SOPInstanceUID", "destination"]
            insert_missing(connection, stow_instances, rows, key, destination=destination, decided_at=now)
