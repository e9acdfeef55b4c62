"""The runs: the window, start, end and report of each one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select, update

from airlock.ledger import clock
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import insert_for
from airlock.ledger.journal import journaled
from airlock.ledger.tables import runs
from airlock.records import Window
from airlock.suggestions import suggest_name

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, Row

RUNNING = "running"
AUDITED = "audited"  # the state of a run whose arrivals are all settled
EXPECTED = "expected"  # the state of a wave that has not begun, and that studies wait for
GIVEN_UP = "given_up"  # the state of a run that was given up before it had claimed anything; it may still begin
NOT_BEGUN = (EXPECTED, GIVEN_UP)
SCHEDULED = "scheduled__"  # prefix of Airflow's ids of runs that the schedule starts
WAVE = "wave_"  # prefix of the ids of runs that another run starts, for further parts of its delivery
_WAVE = re.compile(rf"{WAVE}(\d{{4,}})__(.+)", re.DOTALL)


@dataclass(frozen=True)
class RunRecord:
    """A run in the ledger; its times are aware."""

    run_key: str
    pipeline: str
    run_id: str
    window: Window | None
    started_at: datetime
    ended_at: datetime | None
    state: str
    report: dict[str, Any] | None
    listed_until: datetime | None  # the time up to which its claim has taken what was listed; None before the claim


def record(row: Row[Any]) -> RunRecord:
    """Return a row of the table as a record."""
    return RunRecord(
        run_key=row.run_key,
        pipeline=row.pipeline,
        run_id=row.run_id,
        window=None if row.window_start is None else Window(row.window_start, row.window_end),
        started_at=row.started_at,
        ended_at=row.ended_at,
        state=row.state,
        report=None if row.report is None else json.loads(row.report),
        listed_until=row.listed_until,
    )


def name_wave(lead: str, number: int) -> str:
    """Return Airflow's id of the run that takes a wave of the delivery that the run *lead* has listed, from 1."""
    return lead if number == 1 else f"{WAVE}{number:04}__{lead}"


def parse_wave(run_id: str) -> tuple[str, int]:
    """Return the run that has listed the delivery of a run, and which of its waves the run takes; see `name_wave`."""
    found = _WAVE.fullmatch(run_id)
    return (found[2], int(found[1])) if found else (run_id, 1)


def find_run(connection: Connection, run_key: str) -> RunRecord | None:
    """Return a run within a transaction."""
    row = connection.execute(select(runs).where(runs.c.run_key == run_key)).one_or_none()
    return None if row is None else record(row)


def need_run(connection: Connection, run_key: str, pipeline: str | None = None) -> RunRecord:
    """Return a run that must exist, of this pipeline if one is given.

    Raises
    ------
    LedgerError
        If the ledger has no such run, or it is of another pipeline.
    """
    found = find_run(connection, run_key)
    if found is None:
        raise LedgerError(f"the ledger has no run {run_key!r}: give the run's key, as in its report")
    if pipeline is not None and found.pipeline != pipeline:
        raise LedgerError(f"run {run_key!r} is of pipeline {found.pipeline!r}, not {pipeline!r}: name that pipeline")
    return found


def find_pipelines(connection: Connection) -> set[str]:
    """Return the names of the pipelines that have run, within a transaction."""
    return set(connection.scalars(select(runs.c.pipeline).distinct()))


def need_pipeline(connection: Connection, pipeline: str) -> None:
    """Check that a pipeline has run.

    Raises
    ------
    LedgerError
        If it has not; the text suggests similar names.
    """
    known = find_pipelines(connection)
    if pipeline not in known:
        others = f"it has runs of {', '.join(sorted(known))}" if known else "it has no run at all"
        raise LedgerError(f"the ledger has no run of pipeline {pipeline!r}: {suggest_name(pipeline, known, others)}")


class Runs(Store):
    """The ledger's methods about runs."""

    @journaled()
    def open_run(self, run_key: str, pipeline: str, run_id: str, window: Window | None) -> RunRecord:
        """Record that a run has begun; a run that exists already is running again and keeps its first window.

        Parameters
        ----------
        run_key
            The run's name in the ledger.
        pipeline, run_id
            Airlock's pipeline and Airflow's run id.
        window
            The time window of its delivery; None if it has no bounds in time.

        Raises
        ------
        LedgerError
            If another run has this key.
        """
        with self._writing("runs") as connection:
            known = find_run(connection, run_key)
            if known is None:
                start, end = (None, None) if window is None else (window.start, window.end)
                row = {"run_key": run_key, "pipeline": pipeline, "run_id": run_id, "state": RUNNING}
                times = {"window_start": start, "window_end": end, "started_at": clock.now()}
                added = insert_for(connection, runs).values(row | times)  # an earlier wave may have inserted it since
                connection.execute(added.on_conflict_do_nothing(index_elements=["run_key"]))
            elif (known.pipeline, known.run_id) != (pipeline, run_id):
                raise LedgerError(
                    f"run key {run_key!r} is taken by run {known.run_id!r} of pipeline {known.pipeline!r}"
                )
            else:
                again = {"state": RUNNING, "ended_at": None}
                begun = {"started_at": clock.now()} if known.state in NOT_BEGUN else {}
                connection.execute(update(runs).where(runs.c.run_key == run_key).values(again | begun))
            return need_run(connection, run_key)

    @journaled()
    def close_run(self, run_key: str, state: str, report: dict[str, Any]) -> None:
        """Record a run's end, over an earlier end of the same run.

        Parameters
        ----------
        run_key
            An open run.
        state
            Its last state, for example ``success``.
        report
            The content of report.json.

        Raises
        ------
        LedgerError
            If the ledger has no such run.
        """
        with self._writing("runs") as connection:
            need_run(connection, run_key)
            values = {"state": state, "report": json.dumps(report), "ended_at": clock.now()}
            connection.execute(update(runs).where(runs.c.run_key == run_key).values(values))

    def find_runs_since(self, pipeline: str, since: datetime) -> list[str]:
        """Return the keys of the runs that an audit has ended or left open since a time, and of those without one."""
        at_work = or_(runs.c.ended_at.is_(None), runs.c.ended_at >= since, runs.c.state == "open")
        with self._reading() as connection:
            return list(connection.scalars(select(runs.c.run_key).where(runs.c.pipeline == pipeline, at_work)))

    def scheduled_until(self, pipeline: str, before: datetime) -> datetime | None:
        """Return the time up to which scheduled runs have taken what was listed; None if there was none.

        A window counts as taken when the claim of its run has committed, not when the run has begun. If none has
        committed, this is the start of the first window.

        Parameters
        ----------
        pipeline
            The pipeline.
        before
            Only windows that end at or before this time count.
        """
        scheduled = runs.c.pipeline == pipeline, runs.c.run_id.startswith(SCHEDULED, autoescape=True)
        listed = select(func.max(runs.c.listed_until)).where(*scheduled, runs.c.listed_until <= before)
        begun = select(func.min(runs.c.window_start)).where(*scheduled, runs.c.window_end <= before)
        with self._reading() as connection:
            until: datetime | None = connection.scalar(listed)
            return connection.scalar(begun) if until is None else until

    @journaled()
    def note_marker(self, run_key: str, marker: str, at: datetime) -> None:
        """Record the marker that opens a run's delivery.

        Parameters
        ----------
        run_key
            An open run.
        marker
            The digest of the marker's address.
        at
            When it was last modified.
        """
        with self._writing("runs") as connection:
            need_run(connection, run_key)
            own = runs.c.run_key == run_key
            connection.execute(update(runs).where(own).values(marker=marker, marker_at=at))

    def used_marker(self, pipeline: str, run_key: str, marker: str) -> datetime | None:
        """Return when the marker that opened the last delivery was last modified; only a newer one opens the next.

        None if no run has claimed a delivery by this marker, or if this run has: its delivery is frozen.
        """
        claimed = runs.c.pipeline == pipeline, runs.c.marker == marker, runs.c.listed_until.is_not(None)
        with self._reading() as connection:
            if connection.scalar(select(runs.c.run_key).where(*claimed, runs.c.run_key == run_key)):
                return None
            newest: datetime | None = connection.scalar(select(func.max(runs.c.marker_at)).where(*claimed))
            return newest

    def pipelines(self) -> set[str]:
        """Return the names of the pipelines that have run."""
        with self._reading() as connection:
            return find_pipelines(connection)

    def run(self, run_key: str) -> RunRecord | None:
        """Return a run, or None if the ledger has no such run."""
        with self._reading() as connection:
            return find_run(connection, run_key)
