"""The import task of one batch, as plugins/airlock_tasks/batch_job.py does it on healthaws: one job, found again.

The job is recorded before it is started, under a client token that batch and generation give; a later try asks for
the recorded job, and starts the next one only after FAILED.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from airlock.clinical import import_ as clinical
from airlock.imaging import import_ as imaging
from airlock.imaging.stage import find_staged
from airlock.ledger import Job
from airlock.stages.batches import find_batch
from tests.explore.pipelines import DATASTORE, RECORDS, ROLE

if TYPE_CHECKING:
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from tests.explore.services import Services

GENERATIONS = 3


class JobFailedError(RuntimeError):
    """The job ended FAILED, and a retry may start another."""


class Service(Protocol):
    """The jobs of one service."""

    def start(self, token: str, name: str, input_uri: str) -> str:
        """Start a job and return its id."""

    def describe(self, job_id: str) -> dict[str, Any]:
        """Return the properties of a job that has ended."""

    def status(self, properties: dict[str, Any]) -> str:
        """Return its status."""

    def output(self, properties: dict[str, Any]) -> str:
        """Return the folder of its results."""


@dataclass(frozen=True)
class ImagingJobs:
    """The import jobs of HealthImaging."""

    services: Services
    stage: Any = imaging

    def find_batch(self, run: Run[Any], batch_id: str) -> Batch:
        """Return a batch as stage has left it."""
        return find_staged(run, batch_id)

    def start(self, token: str, name: str, input_uri: str) -> str:
        """Start a job."""
        answer = self.services.imaging(
            "StartDICOMImportJob",
            datastoreId=DATASTORE,
            dataAccessRoleArn=ROLE,
            inputS3Uri=input_uri,
            outputS3Uri="s3://output/imports/",
            clientToken=token,
            jobName=name,
        )
        return str(answer["jobId"])

    def describe(self, job_id: str) -> dict[str, Any]:
        """Return a job's properties."""
        answer = self.services.imaging("GetDICOMImportJob", datastoreId=DATASTORE, jobId=job_id)
        return dict(answer["jobProperties"])

    def status(self, properties: dict[str, Any]) -> str:
        """Return a job's status."""
        return str(properties["jobStatus"])

    def output(self, properties: dict[str, Any]) -> str:
        """Return the folder of a job's results."""
        return str(properties["outputS3Uri"])


@dataclass(frozen=True)
class HealthLakeJobs:
    """The import jobs of HealthLake."""

    services: Services
    stage: Any = clinical

    def find_batch(self, run: Run[Any], batch_id: str) -> Batch:
        """Return a batch as normalize has left it."""
        return find_batch(run, batch_id)

    def start(self, token: str, name: str, input_uri: str) -> str:
        """Start a job."""
        answer = self.services.healthlake(
            "StartFHIRImportJob",
            DatastoreId=RECORDS,
            DataAccessRoleArn=ROLE,
            InputDataConfig={"S3Uri": input_uri},
            JobOutputDataConfig={"S3Configuration": {"S3Uri": "s3://output/fhir/", "KmsKeyId": "alias/airlock"}},
            ClientToken=token,
            JobName=name,
            ValidationLevel="strict",
        )
        return str(answer["JobId"])

    def describe(self, job_id: str) -> dict[str, Any]:
        """Return a job's properties."""
        answer = self.services.healthlake("DescribeFHIRImportJob", DatastoreId=RECORDS, JobId=job_id)
        return dict(answer["ImportJobProperties"])

    def status(self, properties: dict[str, Any]) -> str:
        """Return a job's status."""
        return str(properties["JobStatus"])

    def output(self, properties: dict[str, Any]) -> str:
        """Return the folder of a job's results."""
        return str(properties["JobOutputDataConfig"]["S3Configuration"]["S3Uri"])


def import_batch(run: Run[Any], batch_id: str, service: Any) -> None:
    """Run a batch's job to its end and record it, or find the recorded one; after FAILED start the next."""
    batch = service.find_batch(run, batch_id)
    if not batch.files:
        return  # the task is skipped
    for _ in range(GENERATIONS):
        job = _find_or_start(run, batch, service)
        properties = service.describe(job.job_id)
        if service.status(properties) != "FAILED" or job.generation >= GENERATIONS - 1:
            folder = service.output(properties)
            service.stage.record(run, replace(job, input_uri=batch.input_uri), properties, f"{folder.rstrip('/')}/")
            return
    raise JobFailedError("every job of the batch has failed")


def _find_or_start(run: Run[Any], batch: Batch, service: Any) -> Job:
    known = run.ledger.job(batch.batch_id)
    if known is not None and known.job_id is not None:
        if service.status(service.describe(known.job_id)) != "FAILED" or known.generation >= GENERATIONS - 1:
            return known
        known = _new_job(run, batch, known.generation + 1)
    job = known or _new_job(run, batch, 0)
    service.stage.check_prefix(run, batch)
    run.ledger.record_job(job)
    name = f"airlock.{run.pipeline.name[:14]}.{batch.batch_id}"[:55]
    started = replace(job, job_id=service.start(job.client_token, f"{name}.{job.client_token[:8]}", batch.input_uri))
    run.ledger.record_job(started)
    return started


def _new_job(run: Run[Any], batch: Batch, generation: int) -> Job:
    token = hashlib.sha256(f"{batch.batch_id}|{generation}".encode()).hexdigest()
    return Job(
        batch_id=batch.batch_id,
        generation=generation,
        run_key=run.key,
        client_token=token,
        job_id=None,
        input_uri=batch.input_uri,
    )
