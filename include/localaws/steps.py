"""The steps of a job of either service; each can be repeated after a crash.

``reading`` does the work: the job is IN_PROGRESS. ``writing`` puts the output folder on S3 and ends the job. ``late``
is ``writing`` after the job has ended: the manifest lags behind.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from localaws.errors import log_defect
from localaws.faults import Fault
from localaws.rows import find_row
from localaws.schedule import InterruptedStepError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence

    from localaws.runtime import Runtime

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How long a job that a fault holds up waits before the fault is looked at again."""


class JobFailedError(Exception):
    """The job as a whole fails.

    Parameters
    ----------
    message : str
        The message of the job's description; within the model's pattern for messages, which has no comma.
    """


@dataclass(frozen=True)
class JobKind:
    """One kind of job.

    Parameters
    ----------
    name : str
        As messages name it, for example ``import job``.
    table : str
        Table of its jobs.
    step : str
        Kind of the schedule's rows that advance it.
    """

    name: str
    table: str
    step: str


class JobSteps(ABC):
    """Advances the jobs of one kind."""

    def __init__(self, runtime: Runtime, kind: JobKind) -> None:
        self.runtime = runtime
        self.kind = kind
        runtime.schedule.on(kind.step, self.advance)

    def phases(self) -> Mapping[str, Callable[[sqlite3.Row, Sequence[Fault]], float | None]]:
        """Return the step of each phase; it returns the seconds until the next one, or None at the end."""
        return {"reading": self._work, "writing": self._write, "late": self._write_late}

    @abstractmethod
    def read(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float | None:
        """Do the work and put the job into ``writing``; return the seconds until then, None if the job has ended."""

    @abstractmethod
    def write_output(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        """Write the output folder, whole."""

    @abstractmethod
    def outcome(self, job: sqlite3.Row, faults: Sequence[Fault]) -> tuple[str, str | None]:
        """Return the status with which the job ends, and its message."""

    @abstractmethod
    def announce(self, job: sqlite3.Row) -> None:
        """Send the event of a job's status, where AWS documents one."""

    def advance(self, job_id: str) -> float | None:
        """Do the next step of a job; return the seconds until the one after, or None at the end."""
        with self.runtime.state.read() as connection:
            job = find_row(connection, self.kind.table, job_id)
        step = self.phases().get(job["phase"]) if job else None
        if job is None or step is None:
            return None
        try:
            return step(job, faults_of(job))
        except InterruptedStepError:
            raise
        except JobFailedError as failure:
            self.end(job, "FAILED", str(failure))
        except (BotoCoreError, ClientError) as error:
            self.end(job, "FAILED", f"Amazon S3 could not be used - {self.describe_s3_error(error)}")
        except Exception as error:  # noqa: BLE001 - whatever breaks, the job must end and say so
            log_defect(f"job {job_id}", error)
            self.end(job, "FAILED", f"Internal error - {type(error).__name__}")
        return None

    def describe_s3_error(self, error: BotoCoreError | ClientError) -> str:
        """Return the code of an error and the call that got it, without its text: that may hold a key."""
        code = s3_error_code(error)
        return f"{code} at {error.operation_name}" if isinstance(error, ClientError) else code

    def is_held_up(self, kind: str, job: sqlite3.Row, faults: Sequence[Fault]) -> bool:
        """Return whether a fault of this kind still delays the job."""
        age = time.time() - job["submitted_at"]
        return any(
            fault.kind == kind
            and self.runtime.faults.is_on(fault.id)
            and (fault.seconds is None or age < fault.seconds)
            for fault in faults
        )

    def _work(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float | None:
        if self.is_held_up("stuck_in_progress", job, faults):
            return LOOK_SECONDS
        if any(fault.kind == "job_failed_without_output" for fault in faults):
            raise JobFailedError(f"The {self.kind.name} failed")
        return self.read(job, faults)

    def _write(self, job: sqlite3.Row, faults: Sequence[Fault]) -> float | None:
        late = next((fault for fault in faults if fault.kind == "manifest_late"), None)
        if late is None:
            self.write_output(job, faults)
        status, message = self.outcome(job, faults)
        self.end(job, status, message, "late" if late else "done")
        return late.duration if late else None

    def _write_late(self, job: sqlite3.Row, faults: Sequence[Fault]) -> None:
        self.write_output(job, faults)
        self.finish(job)

    def end(self, job: sqlite3.Row, status: str, message: str | None, phase: str = "done") -> None:
        """End a job; one that has ended before, and whose late output failed, keeps its status."""
        if job["ended_at"] is not None:
            log.warning("job %s has ended, but its late output was not written: %s", job["id"], message)
            self.finish(job)
            return
        log.info("%s %s is %s", self.kind.name, job["id"], status)
        self.record_end(job, status, message, phase)

    def record_end(self, job: sqlite3.Row, status: str, message: str | None, phase: str) -> None:
        """Write the end of a job to the database."""
        self.update(job, status=status, message=message, ended_at=time.time(), phase=phase)

    def finish(self, job: sqlite3.Row) -> None:
        """Record that nothing is left to do for a job that has ended."""
        self.update(job, announce=False, phase="done")

    def update(self, job: sqlite3.Row, *, announce: bool = True, **columns: object) -> None:
        """Change columns of a job."""
        with self.runtime.state.write() as connection:
            self.set_columns(connection, job, **columns)
            changed = find_row(connection, self.kind.table, job["id"])
        if announce and changed is not None:
            self.announce(changed)

    def set_columns(self, connection: sqlite3.Connection, job: sqlite3.Row, **columns: object) -> None:
        """Change columns of a job in the caller's transaction."""
        assignments = ", ".join(f"{name} = :{name}" for name in columns)
        query = f"UPDATE {self.kind.table} SET {assignments} WHERE id = :id"  # noqa: S608 - names of our own
        connection.execute(query, {**columns, "id": job["id"]})


def faults_of(job: sqlite3.Row) -> list[Fault]:
    """Return the faults that a job was given when it was started."""
    return [Fault(**fault) for fault in json.loads(job["faults"])]


def s3_error_code(error: BotoCoreError | ClientError) -> str:
    """Return the code of an error of S3, or the name of the error where no answer came."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__


def writes_results(faults: Sequence[Fault]) -> bool:
    """Return whether the files beside the manifest are written."""
    return all(fault.keep_results for fault in faults if fault.kind == "manifest_missing")


def writes_manifest(faults: Sequence[Fault]) -> bool:
    """Return whether the manifest is written."""
    return not any(fault.kind == "manifest_missing" for fault in faults)
