"""What the operators share that run one job of a service for one batch: the job is kept in the ledger."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airlock_tasks.stage import open_run
from healthaws.hooks.jobs import JobHookT
from healthaws.jobs import ImportJob
from healthaws.operators.jobs import StartJobOperator

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from airlock.ledger import Job
    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.stages.batches import Batch

GENERATION_KEY = "generation"


class ImportJobFailedError(RuntimeError):
    """A job has ended FAILED, and a further one may be started for its batch."""


class BatchJobOperator(StartJobOperator[JobHookT]):
    """Runs the job of one batch. The job is kept in the ledger, which outlives Airflow's own task state.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    batch_id
        The batch, from normalize. It names the work: the same batch and generation make the same client token.
    folder
        Of the workspace, where the batch belongs to a second chain of stages within the run.
    **kwargs
        Of the service's own operator.

    Notes
    -----
    A person asks for a further job by the key ``generation`` of the task's state store (Airflow's REST API), and clears
    the task: a run's conf cannot be changed once the run is there.
    """

    input_s3_uri: str

    def __init__(self, *, pipeline: Pipeline, batch_id: str, folder: str = "", **kwargs: Any) -> None:
        # The service takes 64 characters, and the operator adds nine: the batch's name is whole.
        name = f"airlock.{pipeline.name[:14]}.{batch_id}"
        super().__init__(job_name=name, idempotency_key=batch_id, deferrable=True, **kwargs)
        self.pipeline = pipeline
        self.batch_id = batch_id
        self.folder = folder
        self._opened: Run[Any] | None = None

    @abstractmethod
    def check_prefix(self, run: Run[Any], batch: Batch) -> None:
        """Refuse a prefix that does not hold the batch."""

    @abstractmethod
    def record(self, run: Run[Any], job: Job, properties: dict[str, Any], output_uri: str) -> dict[str, Any]:
        """Keep how the job ended, and return what goes to XCom."""

    def take_up(self, context: Context, *args: Any, **kwargs: Any) -> Any:
        """Find the batch's prefix, then reconnect to its job or start it."""
        self._heed_request(context)
        self.input_s3_uri = self._batch(context).input_uri
        return super().take_up(context, *args, **kwargs)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Ask what became of the job after the trigger has fired."""
        self._heed_request(context)
        return super().execute_complete(context, event)

    def starts_at(self, now: datetime) -> datetime:
        """Keep to the pipeline's night window."""
        from airlock.stages.import_window import opens_at

        window = self.pipeline.schedule.import_window
        return now if window is None else opens_at(window, now)

    def load_job(self, context: Context) -> ImportJob | None:
        """Read the batch's job from the ledger."""
        job = self._run(context).ledger.job(self.batch_id)
        return None if job is None else ImportJob(job.batch_id, job.generation, job.job_id)

    def save_job(self, context: Context, job: ImportJob) -> None:
        """Write the job to the ledger; before the start, refuse a prefix that does not hold the batch."""
        run = self._run(context)
        if job.job_id is None:
            self.check_prefix(run, self._batch(context))
        run.ledger.record_job(self._row(run, job))

    def complete(self, context: Context, properties: dict[str, Any]) -> dict[str, Any]:
        """Keep how the job ended, for the audit."""
        output_uri = self.hook.output_folder(properties)
        job = self.load_job(context)
        if job is None:
            raise LookupError(f"batch {self.batch_id}: the ledger has lost its job; clear import")
        run, batch = self._run(context), self._batch(context)
        return self.record(run, replace(self._row(run, job), input_uri=batch.input_uri), properties, output_uri)

    def job_failed(self, context: Context, properties: dict[str, Any]) -> Any:
        """Start the next generation by a retry; leave the last FAILED job to the audit, which holds what it had."""
        job, report = self.load_job(context), self.job_kind.report(properties)
        if job is not None and self._is_last(job):
            self.log.error("job %s is FAILED, the last of %d for this batch", job.job_id, self.max_generations)
            return self.complete(context, properties)
        # Without the service's message, which may name an object; it is in the ledger once the last job has failed.
        raise ImportJobFailedError(f"job {report.job_id} of batch {self.batch_id} is FAILED; a retry starts another")

    def job_cancelled(self, context: Context, properties: dict[str, Any]) -> Any:
        """Leave a cancelled job to the audit: what it brought in is proven file by file, the rest is not there."""
        self.log.error("the job of batch %s was cancelled; audit says what it brought in", self.batch_id)
        return self.complete(context, properties)

    def _heed_request(self, context: Context) -> None:
        asked: Any = context["task_state_store"].get(GENERATION_KEY)
        if asked is not None:
            self.generation = asked

    def _run(self, context: Context) -> Run[Any]:
        """Open the run once per task: this operator is entered at several points."""
        if self._opened is None:
            self._opened = open_run(self.pipeline, context, self.folder)
        return self._opened

    def _row(self, run: Run[Any], job: ImportJob) -> Job:
        from airlock.ledger import Job

        return Job(
            batch_id=self.batch_id,
            generation=job.generation,
            run_key=run.key,
            client_token=job.client_token,
            job_id=job.job_id,
            input_uri=self.input_s3_uri,
        )

    def _batch(self, context: Context) -> Batch:
        from airlock.stages.batches import find_batches

        for batch in find_batches(self._run(context)):
            if batch.batch_id == self.batch_id:
                return batch
        raise LookupError(f"batch {self.batch_id} is not among the run's batches: clear normalize and what follows it")
