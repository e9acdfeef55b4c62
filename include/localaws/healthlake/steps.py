"""The queue of HealthLake's import and export jobs, before and after the steps that all jobs share.

``waiting`` → ``queued``: submitted jobs stand in one queue per kind and account, first in, first out. While a job is
``reading`` or ``writing`` no other one of its kind is; when it ends, the next one begins. ``held`` is a job that a
fault keeps QUEUED.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import TYPE_CHECKING

from localaws.healthlake.announcements import announce_job
from localaws.healthlake.jobs import enqueue_step
from localaws.rows import find_row
from localaws.steps import LOOK_SECONDS, JobKind, JobSteps, faults_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from localaws.faults import Fault
    from localaws.healthlake.objects import Objects
    from localaws.runtime import Runtime


class QueuedJobSteps(JobSteps):
    """Advances the jobs of one kind, one after the other.

    Parameters
    ----------
    kind : str
        ``IMPORT`` or ``EXPORT``.
    """

    def __init__(self, kind: str, runtime: Runtime, objects: Objects) -> None:
        super().__init__(runtime, JobKind(f"{kind.lower()} job", "fhir_job", f"fhir-{kind.lower()}"))
        self.objects = objects
        self._kind = kind
        runtime.schedule.on(enqueue_step(kind), self.enqueue)

    @abstractmethod
    def transfer(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float:
        """Read the job's resources, those read before excepted; return the seconds until the output is written."""

    @abstractmethod
    def result(self, job: sqlite3.Row) -> tuple[str, str | None]:
        """Return the status that the work has earned, and a message."""

    @abstractmethod
    def forget(self, connection: sqlite3.Connection, job_id: str) -> None:
        """Drop the rows that nobody needs once the output is written."""

    def enqueue(self, job_id: str) -> float | None:
        """Put a submitted job into the queue; the first one begins at once."""
        with self.runtime.state.read() as connection:
            job = find_row(connection, self.kind.table, job_id)
        if job is None or job["phase"] not in {"waiting", "held"}:
            return None
        if self.is_held_up("queued_long", job, faults_of(job)):
            if job["status"] != "QUEUED":
                self.update(job, status="QUEUED", phase="held")
            return LOOK_SECONDS
        with self.runtime.state.write() as connection:
            self.set_columns(connection, job, phase="queued")
            begun = self._begin_next(connection)
            queued = begun is None or begun["id"] != job_id
            if queued:
                self.set_columns(connection, job, status="QUEUED")
            changed = find_row(connection, self.kind.table, job_id)
        for row in (begun, changed if queued and job["status"] != "QUEUED" else None):
            if row is not None:
                self.announce(row)
        return None

    def _begin_next(self, connection: sqlite3.Connection) -> sqlite3.Row | None:
        """Begin the job that waits longest, unless one runs; return it."""
        running = "SELECT 1 FROM fhir_job WHERE kind = ? AND phase IN ('reading', 'writing')"
        if connection.execute(running, (self._kind,)).fetchone():
            return None
        waiting = "SELECT id FROM fhir_job WHERE kind = ? AND phase = 'queued' ORDER BY number LIMIT 1"
        job = connection.execute(waiting, (self._kind,)).fetchone()
        if job is None:
            return None
        self.set_columns(connection, job, status="IN_PROGRESS", phase="reading", started_at=time.time())
        self.runtime.schedule.add(connection, self.kind.step, job["id"], 0.0)
        return find_row(connection, self.kind.table, job["id"])

    def announce(self, job: sqlite3.Row) -> None:
        """Send the event of a job's status, and let the schedule look for the next step."""
        announce_job(self.runtime, job)
        self.runtime.schedule.wake()

    def read(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float | None:
        """Read the job's resources, unless a fault cancels the job before the first one."""
        if any(fault.kind == "cancelled" and fault.touches_all for fault in faults):
            self.end(job, *self.outcome(job, faults))
            return None
        seconds = self.transfer(job, faults)
        self.update(job, announce=False, phase="writing")
        return seconds

    def outcome(self, job: sqlite3.Row, faults: Sequence[Fault]) -> tuple[str, str | None]:
        """Return the status of the job's faults, or the one that the work has earned."""
        kinds = {fault.kind: fault for fault in faults}
        if "cancelled" in kinds:
            return kinds["cancelled"].chosen_answer, f"The {self.kind.name} was cancelled"
        if "job_failed_with_output" in kinds:
            return "FAILED", f"The {self.kind.name} failed after some resources were processed"
        if "completed_with_errors" in kinds:
            return "COMPLETED_WITH_ERRORS", f"The {self.kind.name} completed with errors"
        return self.result(job)

    def finish(self, job: sqlite3.Row) -> None:
        """Record that nothing is left to do for a job that has ended."""
        with self.runtime.state.write() as connection:
            self.set_columns(connection, job, phase="done")
            self.forget(connection, job["id"])

    def record_end(self, job: sqlite3.Row, status: str, message: str | None, phase: str) -> None:
        """End a job, and begin the next one in the same transaction."""
        with self.runtime.state.write() as connection:
            self.set_columns(connection, job, status=status, message=message, ended_at=time.time(), phase=phase)
            if phase == "done":
                self.forget(connection, job["id"])
            ended, begun = find_row(connection, self.kind.table, job["id"]), self._begin_next(connection)
        for row in (ended, begun):
            if row is not None:
                self.announce(row)
