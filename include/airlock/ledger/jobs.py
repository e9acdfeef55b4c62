"""The import jobs: one per batch and generation, recorded before the service is called.

A recorded job id is never replaced, so a retried task cannot start a second job.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, select, update

from airlock.ledger.columns import StoreOrigin
from airlock.ledger.data_stores import note_store
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.journal import journaled
from airlock.ledger.runs import need_run
from airlock.ledger.tables import jobs, runs

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection


@dataclass(frozen=True)
class Job:
    """One import job of a batch."""

    batch_id: str
    generation: int  # 0 for the first job of the batch; each further job has the next one
    run_key: str
    client_token: str
    job_id: str | None = None  # None until the service has answered
    status: str | None = None  # as the service names it
    message: str = ""
    input_uri: str = ""
    output_uri: str = ""
    submitted_at: datetime | None = None  # aware
    ended_at: datetime | None = None


def _find_job(connection: Connection, job: Job) -> Job | None:
    statement = select(jobs).where(jobs.c.batch_id == job.batch_id, jobs.c.generation == job.generation)
    row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else Job(**row)


def _need_same_job(known: Job, job: Job) -> None:
    name = f"generation {job.generation} of batch {job.batch_id!r}"
    if known.job_id is not None and known.job_id != job.job_id:
        raise LedgerError(
            f"{name} has the job {known.job_id!r}, not {job.job_id!r}: read it with Ledger.job and resume"
        )
    if known.client_token != job.client_token:
        raise LedgerError(f"{name} was begun with another client token: use that one, or a new generation")
    if known.run_key != job.run_key:
        raise LedgerError(
            f"{name} belongs to run {known.run_key!r}, not {job.run_key!r}: make batch ids unique to a run"
        )


class Jobs(Store):
    """The ledger's methods about import jobs."""

    def job(self, batch_id: str) -> Job | None:
        """Return a batch's job of the highest generation, None if the batch has no job."""
        statement = select(jobs).where(jobs.c.batch_id == batch_id).order_by(jobs.c.generation.desc()).limit(1)
        with self._reading() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else Job(**row)

    @journaled()
    def record_job(self, job: Job, datastore_id: str | None = None) -> None:
        """Record a job, over what the ledger knew of the same batch and generation.

        Parameters
        ----------
        job
            Record it with its client token before the service is called, then with its job id, then with its end.
        datastore_id
            The data store that a new job imports into: from now on the ledger knows it.

        Raises
        ------
        LedgerError
            If the batch's generation has another job id, client token or run, or the run is unknown.
        """
        with self._writing("jobs") as connection:
            need_run(connection, job.run_key)
            known = _find_job(connection, job)
            if known is None:
                connection.execute(insert(jobs).values(asdict(job)))
                if datastore_id is not None:
                    note_store(connection, datastore_id, StoreOrigin.IMPORTED)
                return
            _need_same_job(known, job)
            own = (jobs.c.batch_id == job.batch_id, jobs.c.generation == job.generation)
            connection.execute(update(jobs).where(*own).values(asdict(job)))

    def repeat_job(self, job: Job, datastore_id: str | None = None) -> None:
        """Record a job as `record_job`, unless the ledger, a restored backup, knows the later id of the same job."""
        with self._reading() as connection:
            known = _find_job(connection, job)
        if known is None or known.job_id is None or known.client_token != job.client_token or job.job_id is not None:
            self.record_job(job, datastore_id)

    def jobs_of(self, run_key: str) -> list[Job]:
        """Return all jobs of a run, by batch and generation."""
        statement = select(jobs).where(jobs.c.run_key == run_key)
        with self._reading() as connection:
            found = [Job(**row) for row in connection.execute(statement).mappings()]
        return sorted(found, key=lambda job: (job.batch_id, job.generation))

    def count_open_jobs(self, pipeline: str) -> tuple[int, datetime | None]:
        """Count the jobs of a pipeline's unfinished runs that have not ended; return when the oldest was submitted."""
        of_open_runs = runs.c.pipeline == pipeline, runs.c.ended_at.is_(None), jobs.c.ended_at.is_(None)
        statement = (
            select(func.count(), func.min(jobs.c.submitted_at))
            .join_from(jobs, runs, runs.c.run_key == jobs.c.run_key)
            .where(*of_open_runs, jobs.c.job_id.is_not(None))
        )
        with self._reading() as connection:
            return tuple(connection.execute(statement).one())
