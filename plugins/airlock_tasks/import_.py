"""Import: one HealthImaging job per batch; mapped over the batches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airlock_tasks.stage import open_run
from healthaws.jobs import ImportJob
from healthaws.operators.healthimaging import HealthImagingStartDicomImportJobOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.ledger import Job
    from airlock.normalize import Batch
    from airlock.pipelines import ImagingPipeline
    from airlock.run import Run

GENERATION_KEY = "generation"


class ImportJobFailedError(RuntimeError):
    """An import job has ended FAILED, and a further one may be started for its batch."""


class ImportOperator(HealthImagingStartDicomImportJobOperator):
    """Imports one batch. The job is kept in the ledger, which outlives Airflow's own task state.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    batch_id
        The batch, from normalize. It names the work: the same batch and generation make the same client token.
    **kwargs
        Of :class:`HealthImagingStartDicomImportJobOperator`.

    Notes
    -----
    A person asks for a further job by the key ``generation`` of the task's state store (Airflow's REST API), and clears
    the task: a run's conf cannot be changed once the run is there.
    """

    def __init__(self, *, pipeline: ImagingPipeline, batch_id: str, **kwargs: Any) -> None:
        store = pipeline.healthimaging
        super().__init__(
            datastore_id=store.datastore_id,
            data_access_role_arn=store.data_access_role_arn,
            input_s3_uri="",  # known once the run is open; may hold names, so it is not rendered
            output_s3_uri=store.output_uri,
            job_name=f"airlock.{pipeline.name}.{batch_id}",
            input_owner_account_id=store.input_owner_account_id,
            idempotency_key=batch_id,
            max_generations=store.max_generations,
            deferrable=True,
            waiter_delay=store.poll_seconds,
            waiter_max_attempts=max(1, round(store.job_timeout_minutes * 60 / store.poll_seconds)),
            backoff_initial_delay=store.backoff_seconds,
            aws_conn_id=store.aws_conn_id,
            region_name=store.region_name,
            **kwargs,
        )
        self.pipeline = pipeline
        self.batch_id = batch_id
        self._opened: Run | None = None

    def take_up(self, context: Context, *args: Any, **kwargs: Any) -> Any:
        """Find the batch's prefix, then reconnect to its job or start it."""
        self._heed_request(context)
        self.input_s3_uri = self._batch(context).input_uri
        return super().take_up(context, *args, **kwargs)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Ask what became of the job after the trigger has fired."""
        self._heed_request(context)
        return super().execute_complete(context, event)

    def load_job(self, context: Context) -> ImportJob | None:
        """Read the batch's job from the ledger."""
        job = self._run(context).ledger.job(self.batch_id)
        return None if job is None else ImportJob(job.batch_id, job.generation, job.job_id)

    def save_job(self, context: Context, job: ImportJob) -> None:
        """Write the job to the ledger; before the start, refuse a prefix that does not hold the batch."""
        from airlock.import_ import check_prefix

        run = self._run(context)
        if job.job_id is None:
            check_prefix(run, self._batch(context))
        run.ledger.record_job(self._row(run, job))

    def complete(self, context: Context, properties: dict[str, Any]) -> dict[str, Any]:
        """Keep how the job ended, for the audit."""
        from airlock.import_ import record

        output_uri = self.hook.output_folder(properties)
        job = self.load_job(context)
        if job is None:
            raise LookupError(f"batch {self.batch_id}: the ledger has lost its job; clear import")
        run, batch = self._run(context), self._batch(context)
        return record(run, replace(self._row(run, job), input_uri=batch.input_uri), properties, output_uri)

    def job_failed(self, context: Context, properties: dict[str, Any]) -> Any:
        """Start the next generation by a retry; leave the last FAILED job to the audit, which holds its studies."""
        job = self.load_job(context)
        if job is not None and self._is_last(job):
            self.log.error("job %s is FAILED, the last of %d for this batch", job.job_id, self.max_generations)
            return self.complete(context, properties)
        # Without the service's message, which may name an object; it is in the ledger once the last job has failed.
        raise ImportJobFailedError(
            f"job {properties['jobId']} of batch {self.batch_id} is FAILED; a retry starts another"
        )

    def _heed_request(self, context: Context) -> None:
        asked: Any = context["task_state_store"].get(GENERATION_KEY)
        if asked is not None:
            self.generation = asked

    def _run(self, context: Context) -> Run:
        """Open the run once per task: this operator is entered at several points."""
        if self._opened is None:
            self._opened = open_run(self.pipeline, context)
        return self._opened

    def _row(self, run: Run, job: ImportJob) -> Job:
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
        from airlock.normalize import find_batches

        for batch in find_batches(self._run(context)):
            if batch.batch_id == self.batch_id:
                return batch
        raise LookupError(f"batch {self.batch_id} is not among the run's batches: clear normalize and what follows it")
