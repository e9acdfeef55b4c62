"""The accounts of a run's import jobs: the outcome of every resource of every batch, by the jobs' result lines."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.manifests import Outputs, keep_output, read_progress, spool_sent
from airlock.clinical.outcomes import account, discrepancies, operation_outcomes
from airlock.clinical.read_back import differing
from airlock.clinical.records import BATCHES
from airlock.clinical.result_lines import as_read, identify, names_nothing
from airlock.stages.auditing import job_entry, missing_job_reason
from airlock.stages.batches import find_batches
from airlock.stages.jobs import find_ended_job
from airlock.stages.outputs import account_for_each, read_best_output
from airlock.storage.spool import FrameFile, Partitions

if TYPE_CHECKING:
    from contextlib import ExitStack

    from airlock.clinical.manifests import JobOutput
    from airlock.clinical.read_back import FhirReader
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.jobs import EndedJob
    from airlock.storage.spool import Spool


@dataclass(frozen=True)
class Accounts:
    """The outcomes of the resources that the jobs of a run, or of one batch, were sent."""

    outcomes: FrameFile = field(default_factory=FrameFile)
    operation_outcomes: FrameFile = field(default_factory=FrameFile)
    jobs: list[dict[str, Any]] = field(default_factory=list)  # an entry per job for the report
    suspect: list[str] = field(default_factory=list)  # the batches whose counts disagree

    def take(self, other: Accounts) -> None:
        """Take over another account, which is closed."""
        for mine, others in (
            (self.outcomes, other.outcomes),
            (self.operation_outcomes, other.operation_outcomes),
        ):
            for rows in others:
                mine.add(rows)
            others.close()
        self.jobs.extend(other.jobs)
        self.suspect.extend(other.suspect)


def account_batches(run: Run[Any], stack: ExitStack, reader: FhirReader | None = None) -> Accounts:
    """Account for every resource of every batch of a run of any kind.

    Parameters
    ----------
    run
        The run.
    stack
        Closes the account.
    reader
        Reads the data store, where the result lines of a job name nothing; without it such a job proves nothing.
    """
    accounts = Accounts()
    stack.enter_context(accounts.outcomes)
    stack.enter_context(accounts.operation_outcomes)
    # One wait for all: the jobs have ended by now, and a hundred without output must not cost a hundred waits.
    until = time.monotonic() + run.pipeline.audit.manifest_wait_seconds
    for account_of_one in account_for_each(find_batches(run), lambda batch: _account(run, batch, reader, until)):
        accounts.take(account_of_one)
    return accounts


def _account(run: Run[Any], batch: Batch, reader: FhirReader | None, until: float) -> Accounts:
    """Account for a batch; wait for the output of its job until then."""
    found, name = Accounts(), f"batches/{batch.batch_id}"
    with Partitions(run.workspace.count_rows(name)) as partitions:
        sent = spool_sent(partitions, run.workspace.parts(name, BATCHES))
        job = find_ended_job(run, batch.batch_id)
        if job is None:
            known = run.ledger.job(batch.batch_id)
            _add(found.outcomes, account(sent, None, None, missing_job_reason(known)))
            found.jobs.extend([] if known is None else [job_entry(batch, known, [], resources=sent.rows)])
            return found
        output = read_best_output(run, job, max(0.0, until - time.monotonic()), Outputs(partitions))
        output = identify(sent, job, output, partitions)
        progress = read_progress(run.workspace, batch.batch_id)
        if reader is not None and names_nothing(sent, job, output, progress):
            output = _read_each(run, reader, sent, job, output, partitions=partitions)
        odd = discrepancies(sent, job, output, progress)
        _add(found.outcomes, account(sent, job, output))
        _add(found.operation_outcomes, operation_outcomes(sent, job, output))
        found.jobs.append(job_entry(batch, job, odd, resources=sent.rows))
        found.suspect.extend([batch.batch_id] if odd else [])
    return found


def _add(aside: FrameFile, frames: Any) -> None:
    for rows in frames:
        if rows.height:
            aside.add(rows)


def _read_each(
    run: Run[Any], reader: FhirReader, sent: Spool, job: EndedJob, output: JobOutput, *, partitions: Partitions
) -> JobOutput:
    """Read every resource of a batch by its id; keep the proof if all are as they were sent."""
    if sent.rows > run.pipeline.healthlake.most_reads_by_id:
        return output
    wrong = pl.concat(differing(reader, run.s3, rows) for rows in sent)
    found = as_read(sent, job, output, wrong, partitions)
    if not found.unread:
        keep_output(run.workspace, job.batch_id, job.job_id, found)
    return found
