"""The folders of the source in which files were accepted, and the studies of these files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import and_, exists, func, insert, literal, select

from airlock.ledger.arrivals import study_key_of
from airlock.ledger.database import Store
from airlock.ledger.frames import fetch_by_values, stage, stage_query
from airlock.ledger.journal import journaled
from airlock.ledger.tables import folders
from airlock.pipelines.imaging import MOST_SIBLING_STUDIES
from airlock.records import schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Select, Table

FOLDERS = pl.Schema(
    {
        "folder": pl.String,  # digest of its bucket and key
        "StudyInstanceUID": pl.String,
        "pattern": pl.String,  # of the name of one of these files
    }
)
# Of a folder with more studies than a file may hold one more is enough to know that there are too many.
MOST_OF_A_FOLDER = MOST_SIBLING_STUDIES + 1
_STAGED = schema(FOLDERS, {"study_key": pl.String})
_COUNTED = pl.Schema({"folder": pl.String, "studies": pl.Int64})


class Folders(Store):
    """The ledger's methods about folders."""

    @journaled()
    def add_folders(self, pipeline: str, accepted: Iterable[pl.DataFrame]) -> None:
        """Add the studies of accepted files to their folders, as far as these do not have `MOST_OF_A_FOLDER` already.

        Parameters
        ----------
        pipeline
            The pipeline of the source.
        accepted
            `FOLDERS`, frame by frame; a folder is named by a digest of its bucket and key.
        """
        with self._writing(f"folders of {pipeline}") as connection:
            keyed = (rows.with_columns(study_key_of("StudyInstanceUID")) for rows in accepted)
            rows = stage(connection, keyed, _STAGED, ["folder"])
            known = stage_query(connection, _count_known(pipeline, rows), _COUNTED, ["folder"])
            _insert_new(connection, pipeline, rows, known)

    def find_folders(self, pipeline: str, names: pl.Series) -> pl.DataFrame:
        """Return the studies of these folders, as `FOLDERS`; a folder without accepted files has no row."""
        with self._reading() as connection:
            return fetch_by_values(connection, folders, FOLDERS, names, "folder", folders.c.pipeline == pipeline)


def _count_known(pipeline: str, rows: Table) -> Select[Any]:
    """Return the query for the numbers of studies that the staged folders have."""
    asked = select(rows.c.folder).distinct().subquery()
    counted = select(folders.c.folder, func.count()).join(asked, asked.c.folder == folders.c.folder)
    return counted.where(folders.c.pipeline == pipeline).group_by(folders.c.folder)


def _insert_new(connection: Connection, pipeline: str, rows: Table, known: Table) -> None:
    same = and_(
        folders.c.folder == rows.c.folder, folders.c.pipeline == pipeline, folders.c.study_key == rows.c.study_key
    )
    copy = func.row_number().over(partition_by=(rows.c.folder, rows.c.study_key), order_by=rows.c.pattern)
    every = select(*(rows.c[name] for name in _STAGED), copy.label("copy")).where(~exists().where(same)).subquery()
    new = select(*(every.c[name] for name in _STAGED)).where(every.c.copy == 1).subquery()
    place = func.row_number().over(partition_by=new.c.folder, order_by=new.c.study_key)
    columns = (*(new.c[name] for name in _STAGED), func.coalesce(known.c.studies, 0).label("studies"))
    numbered = select(*columns, place.label("place")).outerjoin(known, known.c.folder == new.c.folder).subquery()
    fits = numbered.c.studies + numbered.c.place <= MOST_OF_A_FOLDER
    chosen = select(*(numbered.c[name] for name in _STAGED), literal(pipeline)).where(fits)
    names = [*_STAGED, "pipeline"]
    ordered = chosen.order_by(numbered.c.folder)
    connection.execute(insert(folders).from_select([folders.c[name] for name in names], ordered))
