"""The grouping elements of the studies and series that each data store holds.

An instance that contradicts them goes into a non-primary image set, so validation compares a new delivery with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import and_, exists

from airlock.ledger.database import Store
from airlock.ledger.frames import fetch_by_values, insert_missing, stage
from airlock.ledger.tables import arrivals, instances, series, studies
from airlock.records import study_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Connection, Table

STUDIES = pl.Schema(
    {
        "StudyInstanceUID": pl.String,
        "StudyDate": pl.String,
        "AccessionNumber": pl.String,
        "PatientID": pl.String,
        "IssuerOfPatientID": pl.String,
        "StudyID": pl.String,
    }
)

SERIES = pl.Schema({"SeriesInstanceUID": pl.String, "StudyInstanceUID": pl.String, "SeriesNumber": pl.String})


_BUCKETS = 1_024  # of studies that are locked together, per data store


def lock_scopes(datastore_id: str, uids: pl.Series) -> list[str]:
    """Return the lock scopes of these studies in a data store; see `database.writing`."""
    buckets = {int(study_key(uid)[:8], 16) % _BUCKETS for uid in uids.drop_nulls()}
    return [f"studies {bucket} of {datastore_id}" for bucket in sorted(buckets)]


def insert_elements(
    connection: Connection,
    datastore_id: str,
    run_key: str,
    new_studies: pl.DataFrame | Iterable[pl.DataFrame],
    new_series: pl.DataFrame | Iterable[pl.DataFrame],
) -> None:
    """Insert the grouping elements of studies and series that are new in the data store; of several rows the first."""
    for table, frames, schema, key in (
        (studies, new_studies, STUDIES, "StudyInstanceUID"),
        (series, new_series, SERIES, "SeriesInstanceUID"),
    ):
        rows = stage(connection, frames, schema, [key])
        insert_missing(connection, table, rows, ["datastore_id", key], datastore_id=datastore_id, run_key=run_key)


def _has_other_runs(run_key: str, table: Table) -> ColumnElement[bool]:
    """Return the condition that another run has brought a study or series, or some of its instances."""
    arrival = and_(arrivals.c.pipeline == instances.c.pipeline, arrivals.c.arrival_id == instances.c.arrival_id)
    elsewhere = exists().where(
        arrival,
        arrivals.c.run_key != run_key,
        instances.c.datastore_id == table.c.datastore_id,
        instances.c.StudyInstanceUID == table.c.StudyInstanceUID,
        instances.c.state != "claimed",
        *([instances.c.SeriesInstanceUID == table.c.SeriesInstanceUID] if table is series else []),
    )
    return (table.c.run_key != run_key) | elsewhere


class Studies(Store):
    """The ledger's methods about grouping elements."""

    def known_studies(self, datastore_id: str, uids: pl.Series, except_run: str | None = None) -> pl.DataFrame:
        """Return the grouping elements of the studies that a data store holds.

        Parameters
        ----------
        datastore_id
            The HealthImaging data store.
        uids
            Study Instance UIDs.
        except_run
            Studies that only this run has brought are omitted, so that its rerun finds what it found the first time.

        Returns
        -------
        polars.DataFrame
            `STUDIES`, no row for an unknown study.
        """
        return self._known(studies, STUDIES, uids, datastore_id, except_run)

    def known_series(self, datastore_id: str, uids: pl.Series, except_run: str | None = None) -> pl.DataFrame:
        """Return the grouping elements of the series that a data store holds, `SERIES`; see `known_studies`."""
        return self._known(series, SERIES, uids, datastore_id, except_run)

    def _known(
        self, table: Table, schema: pl.Schema, uids: pl.Series, datastore_id: str, except_run: str | None
    ) -> pl.DataFrame:
        key = next(iter(schema))
        conditions: list[ColumnElement[bool]] = [table.c.datastore_id == datastore_id]
        if except_run is not None:
            conditions.append(_has_other_runs(except_run, table))
        with self._reading() as connection:
            return fetch_by_values(connection, table, schema, uids, key, *conditions).sort(key)
