"""The accounts of a run's import jobs: the outcome of every resource of every batch, from the jobs' result lines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.manifests import Outputs, keep_output, read_progress, spool_sent
from airlock.clinical.outcomes import account, find_discrepancies, operation_outcomes
from airlock.clinical.read_back import find_differing
from airlock.clinical.records import BATCHES
from airlock.clinical.result_lines import as_read, identify, names_nothing
from airlock.stages.auditing import build_job_entry, missing_job_reason
from airlock.stages.batches import find_batches
from airlock.stages.jobs import find_ended_job
from airlock.stages.outputs import account_for_each, read_best_output
from airlock.storage.spool import FrameFile, Partitions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

    from airlock.clinical.manifests import JobOutput
    from airlock.clinical.read_back import FhirReader
    from airlock.pipelines import HealthLake, Pipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.jobs import EndedJob
    from airlock.storage.spool import Spool


@dataclass(frozen=True)
class Accounts:
    """The outcomes of the resources that were sent to the jobs of a run, or to the job of one batch."""

    outcomes: FrameFile = field(default_factory=FrameFile)
    operation_outcomes: FrameFile = field(default_factory=FrameFile)
    jobs: list[dict[str, Any]] = field(default_factory=list)  # an entry per job for the report
    suspect: list[str] = field(default_factory=list)  # the ids of batches whose counts disagree

    def take_over(self, other: Accounts) -> None:
        """Move the outcomes and jobs of other accounts to these, and delete the others."""
        self.outcomes.take_over(other.outcomes)
        self.operation_outcomes.take_over(other.operation_outcomes)
        self.jobs.extend(other.jobs)
        self.suspect.extend(other.suspect)


@dataclass(frozen=True)
class JobReading:
    """How the results of a run's import jobs are read.

    Parameters
    ----------
    healthlake
        The data store and its limits.
    wait_seconds
        The longest wait for the outputs of all jobs.
    reader
        Reads the data store if the result lines of a job name no resource; without it such a job proves nothing.
    """

    healthlake: HealthLake
    wait_seconds: float
    reader: FhirReader | None = None


def account_batches(run: Run[Pipeline], stack: ExitStack, reading: JobReading) -> Accounts:
    """Return the outcome of every resource of every batch of a run, of any kind of pipeline.

    Parameters
    ----------
    run
        The run.
    stack
        Deletes the outcomes from the local disk when it closes.
    reading
        How the jobs' results are read.
    """
    accounts = Accounts()
    stack.enter_context(accounts.outcomes)
    stack.enter_context(accounts.operation_outcomes)
    # One wait for all: the jobs have ended by now, and a hundred without output must not cost a hundred waits.
    until = time.monotonic() + reading.wait_seconds
    for of_batch in account_for_each(find_batches(run), lambda batch: _account_batch(run, batch, reading, until)):
        accounts.take_over(of_batch)
    return accounts


def _account_batch(run: Run[Pipeline], batch: Batch, reading: JobReading, until: float) -> Accounts:
    """Return the outcomes of a batch's resources; wait for its job's output at most until then."""
    found, name = Accounts(), f"batches/{batch.batch_id}"
    with Partitions(run.workspace.count_rows(name)) as partitions:
        sent = spool_sent(partitions, run.workspace.parts(name, BATCHES))
        job = find_ended_job(run, batch.batch_id)
        if job is None:
            known = run.ledger.job(batch.batch_id)
            _add_frames(found.outcomes, account(sent, None, None, missing_job_reason(known)))
            found.jobs.extend([] if known is None else [build_job_entry(batch, known, [], resources=sent.rows)])
            return found
        output = read_best_output(run, job, max(0.0, until - time.monotonic()), Outputs(partitions))
        output = identify(sent, job, output, partitions)
        progress = read_progress(run.workspace, batch.batch_id)
        few = sent.rows <= reading.healthlake.most_reads_by_id
        if reading.reader is not None and few and names_nothing(sent, job, output, progress):
            output = _read_each(run, reading.reader, sent, job, output, partitions=partitions)
        odd = find_discrepancies(sent, job, output, progress)
        _add_frames(found.outcomes, account(sent, job, output))
        _add_frames(found.operation_outcomes, operation_outcomes(sent, job, output))
        found.jobs.append(build_job_entry(batch, job, odd, resources=sent.rows))
        found.suspect.extend([batch.batch_id] if odd else [])
    return found


def _add_frames(file: FrameFile, frames: Iterable[pl.DataFrame]) -> None:
    for rows in frames:
        if rows.height:
            file.add(rows)


def _read_each(
    run: Run[Pipeline], reader: FhirReader, sent: Spool, job: EndedJob, output: JobOutput, *, partitions: Partitions
) -> JobOutput:
    """Read every resource of a batch by its id and return the job's output with them; keep it if all are as sent."""
    wrong = pl.concat(find_differing(reader, run.s3, rows) for rows in sent)
    found = as_read(sent, job, output, wrong, partitions)
    if not found.unread:
        keep_output(run.workspace, job.batch_id, job.job_id, found)
    return found
