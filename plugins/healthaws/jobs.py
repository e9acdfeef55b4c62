"""What a task remembers of the job that it started."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class ImportJob:
    """
    One import job, as far as later tries of the task must know it.

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
        """64 hex digits, the same for the same work and generation: the service starts one job for them."""
        return hashlib.sha256(f"{self.idempotency_key}|{self.generation}".encode()).hexdigest()

    def next(self) -> ImportJob:
        """Return the job to start after this one has failed."""
        return ImportJob(self.idempotency_key, self.generation + 1)
