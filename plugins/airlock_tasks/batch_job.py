"""The base of operators that run one job of a service for one batch, and record the job in the ledger."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Protocol

from airflow.sdk.exceptions import AirflowSkipException
from typing_extensions import TypeVar, override

from airlock.pipelines import Pipeline
from airlock_tasks.run import PipelineT, open_run
from airlock_tasks.telemetry import note_job
from healthaws.hooks.jobs import JobHookT
from healthaws.jobs import ImportJob
from healthaws.operators.jobs import StartJobOperator

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from airlock.ledger import Job
    from airlock.run import Run
    from airlock.stages.batches import Batch

GENERATION_KEY = "generation"


class ImportJobFailedError(RuntimeError):
    """A job ended FAILED, and a retry may start another for its batch."""


PipelineT_contra = TypeVar("PipelineT_contra", bound=Pipeline, contravariant=True)


class ImportStage(Protocol[PipelineT_contra]):
    """The part of the import stage that each kind of pipeline has for itself."""

    def check_prefix(self, run: Run[PipelineT_contra], batch: Batch) -> None:
        """Refuse a prefix that does not hold exactly the batch's objects."""

    def record(
        self, run: Run[PipelineT_contra], job: Job, properties: dict[str, Any], output_uri: str
    ) -> dict[str, Any]:
        """Record how the job ended, and return what goes to XCom."""


class BatchJobOperator(StartJobOperator[JobHookT], Generic[JobHookT, PipelineT]):
    """Runs the job of one batch, and records it in the ledger, which outlives Airflow's own task state.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    batch_id
        The batch, from normalize. The same batch and generation make the same client token. It is templated as
        ``idempotency_key``, since a mapped group of tasks resolves it when the task runs.
    folder
        Of the workspace, where the batch belongs to a second chain of stages within the run.
    **kwargs
        Of the service's own operator.

    Notes
    -----
    To get another job, a person sets the key ``generation`` of the task's state store (Airflow's REST API) and clears
    the task. The conf cannot carry this: Airflow does not change the conf of an existing run.
    """

    input_s3_uri: str

    def __init__(self, *, pipeline: PipelineT, batch_id: str, folder: str = "", **kwargs: Any) -> None:
        super().__init__(idempotency_key=batch_id, deferrable=True, **kwargs)
        self.pipeline = pipeline
        self.folder = folder
        self._opened: Run[PipelineT] | None = None
        self._found: Batch | None = None

    @property
    def batch_id(self) -> str:
        """The batch whose job this is."""
        return str(self.idempotency_key)

    @property
    @abstractmethod
    def import_stage(self) -> ImportStage[PipelineT]:
        """The kind's own module ``import_``."""

    @override
    def take_up(self, context: Context, *args: Any, **kwargs: Any) -> Any:
        self._prepare_job(context)
        batch = self._batch(context)
        if not batch.files:
            raise AirflowSkipException(f"Batch {self.batch_id} has no file left to import; audit says why.")
        self.input_s3_uri = batch.input_uri
        return super().take_up(context, *args, **kwargs)

    @override
    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        self._prepare_job(context)
        return super().execute_complete(context, event)

    def find_batch(self, run: Run[PipelineT]) -> Batch:
        """Return the batch as the stage before has left it."""
        from airlock.stages.batches import find_batch

        return find_batch(run, self.batch_id)

    @override
    def starts_at(self, now: datetime) -> datetime:
        from airlock.stages.import_window import opens_at

        window = self.pipeline.schedule.import_window
        return now if window is None else opens_at(window, now)

    @override
    def load_job(self, context: Context) -> ImportJob | None:
        job = self._run(context).ledger.job(self.batch_id)
        return None if job is None else ImportJob(job.batch_id, job.generation, job.job_id)

    @override
    def save_job(self, context: Context, job: ImportJob) -> None:
        """Record the job in the ledger; before the start, refuse a prefix that does not hold the batch."""
        run = self._run(context)
        if job.job_id is None:
            self.import_stage.check_prefix(run, self._batch(context))
        datastore_id: str | None = getattr(self, "datastore_id", None)  # a conversion imports into none
        run.ledger.record_job(self._row(run, job), datastore_id)

    @override
    def complete(self, context: Context, properties: dict[str, Any]) -> dict[str, Any]:
        """Record how the job ended, for audit."""
        output_uri = self.hook.output_folder(properties)
        job = self.load_job(context)
        if job is None:
            raise LookupError(f"The ledger has no job for batch {self.batch_id}. Clear import.")
        run = self._run(context)
        row = replace(self._row(run, job), input_uri=self._batch(context).input_uri)
        result = self.import_stage.record(run, row, properties, output_uri)
        note_job(self.pipeline.name, run.ledger.job(self.batch_id))
        return result

    @override
    def job_failed(self, context: Context, properties: dict[str, Any]) -> Any:
        """Fail the try, so that a retry starts the next generation; record the last FAILED job for audit."""
        job, report = self.load_job(context), self.job_kind.report(properties)
        if job is not None and self._is_last(job):
            self.log.error("Job %s FAILED. It was the last of %d for this batch.", job.job_id, self.max_generations)
            return self.complete(context, properties)
        # Without the service's message, which may name an object; the ledger gets it with the last FAILED job.
        raise ImportJobFailedError(f"Job {report.job_id} of batch {self.batch_id} FAILED. A retry starts another.")

    @override
    def job_cancelled(self, context: Context, properties: dict[str, Any]) -> Any:
        """Record a cancelled job; audit finds out file by file what it imported."""
        self.log.error("The job of batch %s was cancelled. Audit finds out what it imported.", self.batch_id)
        return self.complete(context, properties)

    def _prepare_job(self, context: Context) -> None:
        """Name the job, and apply the generation that a person has asked for."""
        # The service allows 64 characters, and the operator adds nine; so the batch id is never cut.
        self.job_name = f"airlock.{self.pipeline.name[:14]}.{self.batch_id}"
        generation: Any = context["task_state_store"].get(GENERATION_KEY)
        if generation is not None:
            self.generation = generation

    def _run(self, context: Context) -> Run[PipelineT]:
        """Open the run once per task: Airflow enters this operator at several methods."""
        if self._opened is None:
            self._opened = open_run(self.pipeline, context, self.folder)
        return self._opened

    def _batch(self, context: Context) -> Batch:
        """Find the batch once per task."""
        if self._found is None:
            self._found = self.find_batch(self._run(context))
        return self._found

    def _row(self, run: Run[PipelineT], job: ImportJob) -> Job:
        from airlock.ledger import Job

        return Job(
            batch_id=self.batch_id,
            generation=job.generation,
            run_key=run.key,
            client_token=job.client_token,
            job_id=job.job_id,
            input_uri=self.input_s3_uri,
        )
