"""The life of a HealthLake job, in steps that can each be repeated after a crash.

``waiting`` → ``queued``: submitted jobs stand in one queue per kind and account, first in, first out. ``reading``: the
job is IN_PROGRESS and no other one of its kind is. ``writing`` puts the output folder on S3 and ends the job; then the
next one begins. ``late`` is ``writing`` after the job has ended: the manifest lags behind. ``held`` is a job that a
fault keeps QUEUED.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from localaws.errors import log_defect
from localaws.faults import Fault
from localaws.healthlake.announcements import announce_job
from localaws.healthlake.jobs import enqueue_step, job_row
from localaws.schedule import InterruptedStepError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from localaws.healthlake.objects import Objects
    from localaws.runtime import Runtime

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1


class JobFailedError(Exception):
    """The job as a whole fails.

    Parameters
    ----------
    message : str
        What Describe answers; within the model's pattern for messages, which knows no comma.
    """


class JobSteps(ABC):
    """Advances the jobs of one kind.

    Parameters
    ----------
    kind : str
        ``IMPORT`` or ``EXPORT``.
    """

    def __init__(self, kind: str, runtime: Runtime, objects: Objects) -> None:
        self.kind = kind
        self.runtime = runtime
        self.objects = objects
        self._advance_step = f"fhir-{kind.lower()}"
        runtime.schedule.on(enqueue_step(kind), self.enqueue)
        runtime.schedule.on(self._advance_step, self.advance)

    @abstractmethod
    def read(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float:
        """Do the work; returns the seconds until the output is written. What was done before is not done again."""

    @abstractmethod
    def write_output(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        """Write the output folder, whole."""

    @abstractmethod
    def result(self, job: sqlite3.Row) -> tuple[str, str | None]:
        """Return the status that the work has earned, and a message."""

    @abstractmethod
    def forget(self, connection: sqlite3.Connection, job_id: str) -> None:
        """Drop what is needed no more once the output is written."""

    def enqueue(self, job_id: str) -> float | None:
        """Put a submitted job into the queue; the first one begins at once."""
        with self.runtime.state.read() as connection:
            job = job_row(connection, job_id)
        if job is None or job["phase"] not in {"waiting", "held"}:
            return None
        if self._lasts("queued_long", job, faults_of(job)):
            if job["status"] != "QUEUED":
                self.update(job, status="QUEUED", phase="held")
            return LOOK_SECONDS
        with self.runtime.state.write() as connection:
            connection.execute("UPDATE fhir_job SET phase = 'queued' WHERE id = ?", (job_id,))
            begun = self._begin_next(connection)
            queued = begun is None or begun["id"] != job_id
            if queued:
                connection.execute("UPDATE fhir_job SET status = 'QUEUED' WHERE id = ?", (job_id,))
            changed = job_row(connection, job_id)
        for row in (begun, changed if queued and job["status"] != "QUEUED" else None):
            self._announce(row)
        return None

    def _begin_next(self, connection: sqlite3.Connection) -> sqlite3.Row | None:
        """Begin the job that waits longest, unless one runs; returns it."""
        running = "SELECT 1 FROM fhir_job WHERE kind = ? AND phase IN ('reading', 'writing')"
        if connection.execute(running, (self.kind,)).fetchone():
            return None
        waiting = "SELECT id FROM fhir_job WHERE kind = ? AND phase = 'queued' ORDER BY number LIMIT 1"
        row = connection.execute(waiting, (self.kind,)).fetchone()
        if row is None:
            return None
        connection.execute(
            "UPDATE fhir_job SET status = 'IN_PROGRESS', phase = 'reading', started_at = ? WHERE id = ?",
            (time.time(), row["id"]),
        )
        self.runtime.schedule.add(connection, self._advance_step, row["id"], 0.0)
        return job_row(connection, row["id"])

    def _announce(self, job: sqlite3.Row | None) -> None:
        if job is not None:
            announce_job(self.runtime, job)
            self.runtime.schedule.wake()

    def advance(self, job_id: str) -> float | None:
        """Do the next step of a job that has begun; returns the seconds until the one after, or None at the end."""
        with self.runtime.state.read() as connection:
            job = job_row(connection, job_id)
        if job is None:
            return None
        steps = {"reading": self._read, "writing": self._write, "late": self._write_late}
        try:
            return steps[job["phase"]](job, faults_of(job)) if job["phase"] in steps else None
        except InterruptedStepError:
            raise
        except JobFailedError as failure:
            self._end(job, "FAILED", str(failure))
        except (BotoCoreError, ClientError) as error:
            self._end(job, "FAILED", f"Amazon S3 could not be used - {reason(error)}")
        except Exception as error:  # noqa: BLE001 - whatever breaks, the job must end and say so
            log_defect(f"job {job_id}", error)
            self._end(job, "FAILED", f"Internal error - {type(error).__name__}")
        return None

    def _read(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float | None:
        if self._lasts("stuck_in_progress", job, faults):
            return LOOK_SECONDS
        if any(fault.kind == "job_failed_without_output" for fault in faults):
            raise JobFailedError(f"The {self.kind.lower()} job failed")
        if any(fault.kind == "cancelled" and fault.touches_all for fault in faults):
            self._end(job, *self._outcome(job, faults))
            return None
        seconds = self.read(job, faults)
        self.update(job, announce=False, phase="writing")
        return seconds

    def _lasts(self, kind: str, job: sqlite3.Row, faults: Sequence[Fault]) -> bool:
        age = time.time() - job["submitted_at"]
        return any(
            fault.kind == kind
            and self.runtime.faults.is_on(fault.id)
            and (fault.seconds is None or age < fault.seconds)
            for fault in faults
        )

    def _write(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float | None:
        late = next((fault for fault in faults if fault.kind == "manifest_late"), None)
        if late is None:
            self.write_output(job, faults)
        status, message = self._outcome(job, faults)
        self._end(job, status, message, "late" if late else "done")
        return late.duration if late else None

    def _outcome(self, job: sqlite3.Row, faults: Sequence[Fault]) -> tuple[str, str | None]:
        kinds = {fault.kind: fault for fault in faults}
        if "cancelled" in kinds:
            return kinds["cancelled"].chosen_answer, f"The {self.kind.lower()} job was cancelled"
        if "job_failed_with_output" in kinds:
            return "FAILED", f"The {self.kind.lower()} job failed after some resources were processed"
        if "completed_with_errors" in kinds:
            return "COMPLETED_WITH_ERRORS", f"The {self.kind.lower()} job completed with errors"
        return self.result(job)

    def _write_late(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        self.write_output(job, faults)
        self._finish(job)

    def _finish(self, job: sqlite3.Row) -> None:
        with self.runtime.state.write() as connection:
            connection.execute("UPDATE fhir_job SET phase = 'done' WHERE id = ?", (job["id"],))
            self.forget(connection, job["id"])

    def _end(self, job: sqlite3.Row, status: str, message: str | None, phase: str = "done") -> None:
        """End a job, and begin the next one in the same transaction."""
        if job["ended_at"] is not None:
            log.warning("job %s has ended, but its late output was not written: %s", job["id"], message)
            self._finish(job)
            return
        log.info("%s job %s is %s", self.kind.lower(), job["id"], status)
        with self.runtime.state.write() as connection:
            connection.execute(
                "UPDATE fhir_job SET status = ?, message = ?, ended_at = ?, phase = ? WHERE id = ?",
                (status, message, time.time(), phase, job["id"]),
            )
            if phase == "done":
                self.forget(connection, job["id"])
            ended, begun = job_row(connection, job["id"]), self._begin_next(connection)
        for row in (ended, begun):
            self._announce(row)

    def update(self, job: sqlite3.Row, *, announce: bool = True, **columns: object) -> None:
        """Change columns of a job."""
        assignments = ", ".join(f"{name} = :{name}" for name in columns)
        with self.runtime.state.write() as connection:
            query = f"UPDATE fhir_job SET {assignments} WHERE id = :id"  # noqa: S608 - names of our own
            connection.execute(query, {**columns, "id": job["id"]})
            changed = job_row(connection, job["id"])
        if announce:
            self._announce(changed)


def faults_of(job: sqlite3.Row) -> list[Fault]:
    """Return the faults that a job was given when it was started."""
    return [Fault(**fault) for fault in json.loads(job["faults"])]


def reason(error: BotoCoreError | ClientError) -> str:
    """Return the code of an error and the call that got it, without its text: that may hold a key."""
    if isinstance(error, ClientError):
        return f"{error.response['Error']['Code']} at {error.operation_name}"
    return type(error).__name__
