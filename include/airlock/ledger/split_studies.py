"""Studies in several waves of a delivery: which of them wait for waves that have not read their files yet.

Until a wave has validated its files, nobody knows their studies. A study that may have files in it is in flight there:
it has a row in ``in_flight`` under the wave's run, which the wave replaces by those of the studies that it has found.
One row is enough, for the last of these waves. If that one validates before an earlier one has, it hands the row on. So
the rows do not grow with the number of waves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import and_, exists, or_, select

from airlock.ledger import clock
from airlock.ledger.arrivals import LISTED, scope, study_key_of
from airlock.ledger.database import Store
from airlock.ledger.frames import fetch, forbid_plans, insert_for, insert_missing, stage
from airlock.ledger.journal import journaled
from airlock.ledger.runs import EXPECTED, GIVEN_UP, WAVE, find_run, need_run, parse_wave
from airlock.ledger.tables import arrivals, in_flight, runs, verdicts
from airlock.records import schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection, FromClause

SPLIT = schema(dict.fromkeys(("study_instance_uid", "folder"), pl.String))
_SPLIT = schema(SPLIT, {"study_key": pl.String})
_FLIGHT = ("study_key", "datastore_id", "run_key")  # the primary key


class SplitStudies(Store):
    """The ledger's methods about studies that wait for waves."""

    @journaled()
    def await_waves(
        self,
        datastore_id: str,
        pipeline: str,
        run_key: str,
        waves: Mapping[str, Mapping[str, str]],
        studies: Iterable[pl.DataFrame],
    ) -> None:
        """Let the studies of a wave wait for the waves that share a folder with it and have not validated their files.

        What waits for this run waits for one of those from now on. Call it before `record_verdicts`, in the same
        transaction.

        Parameters
        ----------
        datastore_id, pipeline, run_key
            The data store into which the run imports, and the run, which is a wave.
        waves
            The waves that share a folder with this one: by the folder, Airflow's id of each run in the order of the
            waves, with the run's key.
        studies
            The studies of the run's files by folder, as `SPLIT`.
        """
        with self._writing(scope(pipeline)) as connection:
            number = parse_wave(need_run(connection, run_key, pipeline).run_id)[1]
            rows = stage(connection, (_add_keys(frame) for frame in studies), _SPLIT)
            constants = {"datastore_id": datastore_id, "pipeline": pipeline}
            was_awaited = _is_awaited(connection, pipeline, run_key)
            waiting = select(in_flight.c.study_key).where(in_flight.c.run_key == run_key)
            for folder, others in waves.items():
                last = _find_last(connection, pipeline, others)
                if last is None:
                    continue
                here = select(rows.c.study_key).where(rows.c.folder == folder, rows.c.study_key.is_not(None)).distinct()
                _wait(connection, here.subquery(), last, **constants)
                # A study waits for the last awaited wave of its folder. So none of this folder waits for this run if a
                # later wave is awaited.
                if was_awaited and parse_wave(last[0])[1] < number:
                    _wait(connection, waiting.subquery(), last, **constants)

    def expected_waves(self, pipeline: str) -> list[str]:
        """Return Airflow's ids of the runs of a pipeline that studies wait for and that have not begun, sorted."""
        expected = select(runs.c.run_id).where(runs.c.pipeline == pipeline, runs.c.state == EXPECTED)
        with self._reading() as connection:
            return sorted(connection.scalars(expected))

    def last_claimed_wave(self, pipeline: str, lead: str) -> str | None:
        """Return Airflow's id of the last run that has claimed a wave of the delivery that a run has listed."""
        waves = and_(runs.c.run_id.startswith(WAVE, autoescape=True), runs.c.run_id.endswith(lead, autoescape=True))
        claimed = runs.c.pipeline == pipeline, runs.c.listed_until.is_not(None), or_(runs.c.run_id == lead, waves)
        with self._reading() as connection:
            found = list(connection.scalars(select(runs.c.run_id).where(*claimed)))
        waves_of_lead = (run_id for run_id in found if parse_wave(run_id)[0] == lead)
        return max(waves_of_lead, key=lambda run_id: parse_wave(run_id)[1], default=None)

    def find_unvalidated(self, pipeline: str, listing: pl.DataFrame) -> pl.DataFrame:
        """Return the objects of a listing, `arrivals.LISTED`, of which no run of a pipeline has a verdict."""
        with self._reading() as connection:
            rows = stage(connection, listing, LISTED, ["arrival_id"])
            known = exists().where(verdicts.c.arrival_id == rows.c.arrival_id, verdicts.c.pipeline == pipeline)
            unknown = select(*(rows.c[name] for name in LISTED)).where(~known)
            with forbid_plans(connection, "seqscan"):
                return fetch(connection, unknown, LISTED)


def _add_keys(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(study_key_of("study_instance_uid"))


def _is_awaited(connection: Connection, pipeline: str, run_key: str) -> bool:
    """Return whether a wave may still find studies: it has not claimed, or not validated what it holds."""
    run = find_run(connection, run_key)
    if run is None or run.listed_until is None:
        return run is None or run.state != GIVEN_UP
    one = select(arrivals.c.arrival_id).where(arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key).limit(1)
    with forbid_plans(connection, "seqscan"):
        held = connection.scalar(one)
    decided = exists().where(verdicts.c.arrival_id == held, verdicts.c.pipeline == pipeline)
    return held is not None and not connection.scalar(select(decided))  # validate records all of a run or none


def _find_last(connection: Connection, pipeline: str, waves: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the id and the key of the last of these waves that is awaited; None if none is."""
    return next((wave for wave in list(waves.items())[::-1] if _is_awaited(connection, pipeline, wave[1])), None)


def _wait(connection: Connection, studies: FromClause, wave: tuple[str, str], **constants: str) -> None:
    """Let studies wait for a wave, which may not have begun."""
    run_id, run_key = wave
    insert_missing(connection, in_flight, studies, _FLIGHT, run_key=run_key, **constants)
    row = {"run_key": run_key, "pipeline": constants["pipeline"], "run_id": run_id, "state": EXPECTED}
    expected = insert_for(connection, runs).values(row | {"started_at": clock.now()})
    connection.execute(expected.on_conflict_do_nothing(index_elements=["run_key"]))
