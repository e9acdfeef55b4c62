"""Release of the claims of a run that will never continue; an operator's tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, func, literal, select, update

from airlock.ledger import instances as of_instances
from airlock.ledger.arrivals import is_settled, scope
from airlock.ledger.columns import InstanceState, ResolutionState
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.frames import stage_query
from airlock.ledger.journal import journaled
from airlock.ledger.open_resources import keep_clocks
from airlock.ledger.open_resources import scope as resource_scope
from airlock.ledger.owed import OBJECTS, owe, return_owed
from airlock.ledger.parked import find_taken_stores, give_back_taken, is_taken_object
from airlock.ledger.resources import end_claims
from airlock.ledger.runs import GIVEN_UP, WAVE, need_run
from airlock.ledger.tables import (
    arrivals,
    in_flight,
    instances,
    jobs,
    redrives,
    resolutions,
    resources,
    runs,
    successors,
    verdicts,
)
from airlock.reasons import GIVEN_BACK

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement, Connection

_AFTER_A_WAVE = (
    "the next audit of the pipeline releases those that nothing else holds. The wave has claimed nothing: the next "
    "night takes its objects, or a run that you start over them"
)


def _count_rows(connection: Connection, *conditions: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).where(*conditions)).scalar_one())


def _need_jobs_ended(connection: Connection, run_key: str) -> None:
    # Only the last job of a batch counts. Its status is recorded when it has ended.
    statement = select(jobs.c.batch_id, jobs.c.job_id, jobs.c.status).where(jobs.c.run_key == run_key)
    last = {row.batch_id: row for row in connection.execute(statement.order_by(jobs.c.generation))}
    running = sorted(row.job_id or f"one of batch {row.batch_id}" for row in last.values() if row.status is None)
    if running:
        raise LedgerError(
            f"{len(running)} import jobs of run {run_key!r} have not ended as far as the ledger knows: "
            f"{', '.join(running)}. Clear the run's import task. If its DAG run is gone, check in AWS that the jobs "
            f"have ended and repeat with --jobs-ended"
        )


def _undo_redrive(connection: Connection, pipeline: str, run_key: str, unsettled: ColumnElement[bool]) -> None:
    """Undo a redrive's claims: the superseded arrivals are current again and own their instances.

    Raises
    ------
    LedgerError
        If the redrive may have copied or deleted an image set: only its own tasks can find out the result.
    """
    of_run = resolutions.c.run_key == run_key
    if _count_rows(connection, of_run, resolutions.c.state != ResolutionState.BEGUN):
        raise LedgerError(f"run {run_key!r} resolves non-primary image sets: clear its validate task, which continues")
    connection.execute(delete(resolutions).where(of_run))
    given = select(arrivals.c.arrival_id).where(unsettled)
    of_instances.return_to_predecessors(
        connection, and_(instances.c.pipeline == pipeline, instances.c.arrival_id.in_(given))
    )
    linked = and_(successors.c.pipeline == pipeline, successors.c.superseded_by.in_(given))
    again = {"superseded_by": successors.c.superseded_before, "superseded_before": None}
    connection.execute(update(successors).where(linked).values(again))
    if not _count_rows(connection, arrivals.c.run_key == run_key, is_settled(arrivals)):
        connection.execute(delete(redrives).where(redrives.c.run_key == run_key))


def _give_back(
    connection: Connection, pipeline: str, run_key: str, unsettled: ColumnElement[bool], *, is_redrive: bool
) -> int:
    """Delete unsettled arrivals with their verdicts, and owe their objects; return their number.

    Objects of a redrive are owed only if they were owed before it: its predecessors are current again. Parked resources
    that the run has taken in are not owed: the next run takes them in anew.
    """
    given = select(*(literal(GIVEN_BACK) if name == "reason" else arrivals.c[name] for name in OBJECTS))
    rows = stage_query(connection, given.where(unsettled), OBJECTS, ["arrival_id"])
    if is_redrive:
        return_owed(connection, pipeline, run_key)
    else:
        listed = select(rows).where(~is_taken_object(rows.c.arrival_id))
        owe(connection, pipeline, run_key, stage_query(connection, listed, OBJECTS, ["key"]))
    give_back_taken(connection, rows)
    ids = select(rows.c.arrival_id)
    connection.execute(delete(verdicts).where(verdicts.c.pipeline == pipeline, verdicts.c.arrival_id.in_(ids)))
    connection.execute(delete(in_flight).where(in_flight.c.run_key == run_key))
    return connection.execute(delete(arrivals).where(unsettled)).rowcount


def _is_claimed(run_key: str, stores: Collection[str]) -> ColumnElement[bool]:
    """Return the condition that the run claims a resource of these data stores."""
    return and_(resources.c.claimed_by == run_key, resources.c.datastore_id.in_(stores))


class Release(Store):
    """The ledger's methods about releasing claims."""

    def _find_claimed_stores(self, pipeline: str, run_key: str) -> list[str]:
        """Return the data stores of which a run claims resources, or has taken in parked ones: these are locked."""
        claimed = select(resources.c.datastore_id).where(resources.c.claimed_by == run_key).distinct()
        with self._reading() as connection:
            return sorted({*connection.scalars(claimed), *find_taken_stores(connection, pipeline, run_key)})

    @journaled()
    def release_claims(self, pipeline: str, run_key: str) -> int:
        """Release a run's unsettled arrivals and its claims on their instances, for a later run to take.

        Returns
        -------
        int
            The number of released arrivals.

        Raises
        ------
        LedgerError
            If the run has import jobs and unsettled arrivals: only its audit can find out what was imported.
        """
        stores = self._find_claimed_stores(pipeline, run_key)
        locks = [resource_scope(store) for store in stores]
        with self._writing(scope(pipeline), of_instances.SCOPE, *locks) as connection:
            need_run(connection, run_key, pipeline)
            unsettled = and_(arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key, ~is_settled(arrivals))
            started = _count_rows(connection, jobs.c.run_key == run_key)
            if started and _count_rows(connection, unsettled):
                raise LedgerError(
                    f"run {run_key!r} has {started} import jobs: clear its audit task, which settles them"
                )
            claimed = and_(instances.c.pipeline == pipeline, instances.c.state == InstanceState.CLAIMED)
            of_run = instances.c.arrival_id.in_(select(arrivals.c.arrival_id).where(unsettled))
            connection.execute(delete(instances).where(claimed, of_run))
            is_redrive = _count_rows(connection, redrives.c.run_key == run_key) > 0
            _undo_redrive(connection, pipeline, run_key, unsettled)
            if not started:
                end_claims(connection, _is_claimed(run_key, stores))
            return _give_back(connection, pipeline, run_key, unsettled, is_redrive=is_redrive)

    @journaled()
    def give_up_waves(self, pipeline: str, run_keys: Collection[str]) -> int:
        """Let no study wait any longer for waves that have not claimed; return how many studies did.

        Other runs are left as they are: `release_claims` gives back what a run has claimed.
        """
        with self._writing(scope(pipeline)) as connection:
            is_wave = runs.c.run_id.startswith(WAVE, autoescape=True)
            named = runs.c.run_key.in_(run_keys), runs.c.pipeline == pipeline, is_wave
            unclaimed = select(runs.c.run_key).where(*named, runs.c.listed_until.is_(None))
            keys = list(connection.scalars(unclaimed))
            waiting = in_flight.c.run_key.in_(keys)
            studies = connection.scalar(select(func.count(in_flight.c.study_key.distinct())).where(waiting))
            connection.execute(delete(in_flight).where(waiting))
            connection.execute(update(runs).where(runs.c.run_key.in_(keys)).values(state=GIVEN_UP))
            return int(studies or 0)

    @journaled()
    def release_resources(self, pipeline: str, run_key: str, *, jobs_ended: bool = False) -> int:
        """Release the FHIR resources that a run claims, whatever the dispositions of its arrivals.

        If the run has jobs, the ledger forgets the stored content of these resources: a job may have overwritten it.
        The next run that has one of them imports it again.

        Parameters
        ----------
        pipeline, run_key
            The run.
        jobs_ended
            Whether a person has checked that all its jobs have ended, even those without an end in the ledger.

        Returns
        -------
        int
            The number of released resources.

        Raises
        ------
        LedgerError
            If a job may still be running: it would overwrite what another run imports.
        """
        stores = self._find_claimed_stores(pipeline, run_key)
        with self._writing(*map(resource_scope, stores)) as connection:
            need_run(connection, run_key, pipeline)
            claims = _is_claimed(run_key, stores)
            if not jobs_ended and _count_rows(connection, claims):
                _need_jobs_ended(connection, run_key)
            if _count_rows(connection, jobs.c.run_key == run_key):
                keep_clocks(connection, claims, run_key, pipeline)
                return connection.execute(delete(resources).where(claims)).rowcount
            return end_claims(connection, claims)


def release_run(ledger: Release, pipeline: str, run_key: str, *, jobs_ended: bool) -> list[str]:
    """Release a run's FHIR resources, then its arrivals, and return a line about each; give up a wave that has none.

    Raises
    ------
    LedgerError
        As the methods of `Release` do.
    """
    of_fhir = ledger.release_resources(pipeline, run_key, jobs_ended=jobs_ended)
    waited = ledger.give_up_waves(pipeline, [run_key])
    claims = ledger.release_claims(pipeline, run_key)
    return [
        f"{of_fhir} FHIR resources given back; the next run that has one brings it",
        f"{claims} arrivals given back; the next run takes them",
        *([f"{waited} studies wait for this wave no longer; {_AFTER_A_WAVE}"] if waited else []),
    ]
