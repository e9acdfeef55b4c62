"""What each DICOMweb server has taken: a route to it that was broken off goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import and_, delete, exists, select

from airlock.ledger.database import Store
from airlock.ledger.frames import fetch, insert_missing, stage, uid_frame
from airlock.ledger.tables import stow_instances

if TYPE_CHECKING:
    from datetime import datetime

STOW_INSTANCES = pl.Schema({"SOPInstanceUID": pl.String, "etag": pl.String, "state": pl.String, "code": pl.String})
_UIDS = pl.Schema({"SOPInstanceUID": pl.String})


class Stow(Store):
    """The ledger's part about instances that were sent to DICOMweb servers."""

    def stow_instances(self, destination: str, uids: pl.Series) -> pl.DataFrame:
        """Return what a destination said of these SOP Instance UIDs, last; no row for one that it was not asked of.

        Returns
        -------
        polars.DataFrame
            `STOW_INSTANCES`, sorted by SOPInstanceUID.
        """
        with self._reading() as connection:
            rows = stage(connection, uid_frame(uids, "SOPInstanceUID"), _UIDS, ["SOPInstanceUID"])
            statement = (
                select(*(stow_instances.c[name] for name in STOW_INSTANCES))
                .join(rows, stow_instances.c.SOPInstanceUID == rows.c.SOPInstanceUID)
                .where(stow_instances.c.destination == destination)
            )
            return fetch(connection, statement, STOW_INSTANCES).sort("SOPInstanceUID")

    def decide_stow_instances(self, destination: str, decided: pl.DataFrame, now: datetime) -> None:
        """Write what a destination said of instances, `STOW_INSTANCES`, in place of what it said before."""
        with self._writing(f"instances at {destination}") as connection:
            rows = stage(connection, decided, STOW_INSTANCES, ["SOPInstanceUID"])
            twin = stow_instances.c.SOPInstanceUID == rows.c.SOPInstanceUID
            here = stow_instances.c.destination == destination
            connection.execute(
                delete(stow_instances).where(and_(here, exists(select(rows.c.SOPInstanceUID).where(twin))))
            )
            key = ["SOPInstanceUID", "destination"]
            insert_missing(connection, stow_instances, rows, key, destination=destination, decided_at=now)
