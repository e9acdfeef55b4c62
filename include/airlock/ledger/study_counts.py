"""How many instances of a study a data store has, and how many other runs have not settled."""

from __future__ import annotations

import polars as pl
from sqlalchemy import and_, exists, func, select

from airlock.ledger.arrivals import study_key_of
from airlock.ledger.columns import InstanceState
from airlock.ledger.database import Store
from airlock.ledger.frames import fetch, stage, stage_values, uid_frame
from airlock.ledger.instances import superseded_in
from airlock.ledger.tables import arrivals, in_flight, instances, verdicts
from airlock.records import Verdict

STUDY_COUNTS = pl.Schema({"StudyInstanceUID": pl.String, "instances": pl.Int64})
_STUDY_KEYS = pl.Schema({"StudyInstanceUID": pl.String, "study_key": pl.String})
_OWNER = and_(arrivals.c.pipeline == instances.c.pipeline, arrivals.c.arrival_id == instances.c.arrival_id)


class StudyCounts(Store):
    """The ledger's methods that count the instances of studies."""

    def count_stored(self, datastore_id: str, uids: pl.Series, except_run: str | None) -> pl.DataFrame:
        """Return how many instances of these studies other runs have imported, as `STUDY_COUNTS`.

        Parameters
        ----------
        datastore_id
            The HealthImaging data store.
        uids
            Study Instance UIDs, each once.
        except_run
            A run whose own instances do not count; None to count all.
        """
        with self._reading() as connection:
            rows = stage_values(connection, uids, "StudyInstanceUID")
            stored = and_(instances.c.datastore_id == datastore_id, instances.c.state != InstanceState.CLAIMED.value)
            counted = (
                select(rows.c.StudyInstanceUID, func.count().label("instances"))
                .join(instances, instances.c.StudyInstanceUID == rows.c.StudyInstanceUID)
                .where(stored)
                .group_by(rows.c.StudyInstanceUID)
            )
            if except_run is not None:
                others = arrivals.c.run_key != except_run
                counted = counted.join(arrivals, _OWNER).where(others, ~superseded_in(except_run))
            return fetch(connection, counted, STUDY_COUNTS)

    def count_unsettled(self, datastore_id: str, uids: pl.Series, except_run: str | None) -> pl.DataFrame:
        """Return how many files of these studies other runs have not settled, as `STUDY_COUNTS`.

        Duplicates do not count, nor does what is in the data store already.
        """
        frame = uid_frame(uids, "StudyInstanceUID").with_columns(study_key_of("StudyInstanceUID").alias("study_key"))
        with self._reading() as connection:
            rows = stage(connection, frame, _STUDY_KEYS, ["study_key"])
            held = and_(arrivals.c.arrival_id == verdicts.c.arrival_id, arrivals.c.pipeline == verdicts.c.pipeline)
            open_run = and_(in_flight.c.study_key == verdicts.c.study_key, in_flight.c.run_key == arrivals.c.run_key)
            stored = exists().where(_OWNER, instances.c.state != InstanceState.CLAIMED.value)
            counts = (
                verdicts.c.verdict.in_([Verdict.ACCEPT.value, Verdict.QUARANTINE.value]),
                in_flight.c.datastore_id == datastore_id,
                ~stored,
                *((in_flight.c.run_key != except_run,) if except_run is not None else ()),
            )
            counted = (
                select(rows.c.StudyInstanceUID, func.count().label("instances"))
                .join(verdicts, verdicts.c.study_key == rows.c.study_key)
                .join(arrivals, held)
                .join(in_flight, open_run)
                .where(*counts)
                .group_by(rows.c.StudyInstanceUID)
            )
            return fetch(connection, counted, STUDY_COUNTS)
