"""Jobs: the task's record of the job that it started, and the service's report on a job."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPLETED = "COMPLETED"
COMPLETED_WITH_ERRORS = "COMPLETED_WITH_ERRORS"
FAILED = "FAILED"
CANCELLED = frozenset({"CANCEL_COMPLETED", "CANCEL_FAILED"})


@dataclass(frozen=True)
class ImportJob:
    """
    The record of one job that later tries of the task need.

    Attributes
    ----------
    idempotency_key : str
        Names the work that the job does.
    generation : int
        Which job for that work this is, from 0.
    job_id : str or None
        None from before the job is started until its id is known.
    """

    idempotency_key: str
    generation: int
    job_id: str | None = None

    @property
    def client_token(self) -> str:
        """64 hex digits, the same for the same work and generation, so that the service starts one job for them."""
        return hashlib.sha256(f"{self.idempotency_key}|{self.generation}".encode()).hexdigest()

    def named(self, name: str) -> str:
        """
        Return a job name of at most 64 characters that is unique to this work and generation.

        Parameters
        ----------
        name : str
            The readable part; its end is cut off if the name is too long.
        """
        end = f".{self.client_token[:8]}"
        return f"{name[: 64 - len(end)]}{end}"

    def next(self) -> ImportJob:
        """Return the job to start after this one has failed."""
        return ImportJob(self.idempotency_key, self.generation + 1)


@dataclass(frozen=True)
class JobKind:
    """
    One kind of job: its name, the members of its properties, its statuses.

    Attributes
    ----------
    name : str
        As in "DICOM import job".
    service : str
        As in "HealthImaging".
    members : tuple of str
        The names of job id, status, message and data store in the job's properties.
    queued : frozenset of str
        Statuses of a job that waits for others.
    running : frozenset of str
        Statuses of a job that is running.
    ended : frozenset of str
        Statuses that do not change again.
    """

    name: str
    service: str
    members: tuple[str, str, str, str]
    queued: frozenset[str]
    running: frozenset[str]
    ended: frozenset[str]

    @property
    def active(self) -> frozenset[str]:
        """Statuses of a job that has not ended."""
        return self.queued | self.running

    @property
    def statuses(self) -> frozenset[str]:
        """Every status that this package knows."""
        return self.active | self.ended

    def report(self, properties: Mapping[str, Any]) -> JobReport:
        """
        Return the service's report on a job.

        Parameters
        ----------
        properties : Mapping
            The job's properties, as the service returns them.
        """
        job_id, status, message, datastore_id = self.members
        return JobReport(
            kind=self,
            job_id=properties[job_id],
            status=properties[status],
            message=properties.get(message),
            datastore_id=properties.get(datastore_id),
            properties=dict(properties),
        )


@dataclass(frozen=True)
class JobReport:
    """
    The service's report on a job.

    Attributes
    ----------
    kind : JobKind
        The kind of job.
    job_id : str
        The job.
    status : str
        Its status.
    message : str or None
        The service's message.
    datastore_id : str or None
        Its data store, if it has one.
    properties : dict
        All properties that the service returned.
    """

    kind: JobKind
    job_id: str
    status: str
    message: str | None
    datastore_id: str | None
    properties: dict[str, Any]

    @property
    def active(self) -> bool:
        """Whether the job has not ended."""
        return self.status in self.kind.active

    @property
    def subject(self) -> str:
        """The job, named as the subject of a sentence."""
        of_store = f" of data store {self.datastore_id}" if self.datastore_id else ""
        return f"{self.kind.name} {self.job_id}{of_store}"


def differences(asked: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """
    Return the names of the parameters in which a job differs from the requested one.

    Parameters
    ----------
    asked : Mapping
        The requested properties by name; a dot separates a member from its own member.
    found : Mapping
        The job's properties.

    Returns
    -------
    list of str
        Names as in *asked*, without values, because S3 prefixes may identify a patient.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    return [name for name, value in given.items() if _plain(value) != _plain(_member(found, name))]


def _member(found: Any, name: str) -> Any:
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _plain(value: Any) -> str:
    """Return a value for comparison, without a last slash, which a service may leave out."""
    return str(value).rstrip("/")
