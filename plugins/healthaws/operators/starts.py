"""The base of operators that start one job for one piece of work, or find the job that an earlier try started."""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.amazon.aws.operators.base_aws import AwsBaseOperator
from airflow.sdk.exceptions import AirflowFailException
from botocore.exceptions import ClientError
from typing_extensions import override

from healthaws.exceptions import JobConflictError, without_keys
from healthaws.hooks.jobs import JobHookT
from healthaws.jobs import FAILED, ImportJob, JobKind, JobReport, differences
from healthaws.patience import PatientOperator
from healthaws.refusals import CHANGING_DATASTORE_STATUS, is_token_conflict, rejection
from healthaws.triggers.pause import PauseTrigger

if TYPE_CHECKING:
    import re

    from airflow.sdk import Context


class StartOnceOperator(PatientOperator, AwsBaseOperator[JobHookT]):
    """
    Base of operators that start one job for one piece of work, and find it again in later tries.

    Not to be used in DAGs directly.

    The job is recorded in the task state store, which outlives retries and clearing. A later try reconnects to a
    running job, takes the result of a finished one, and starts another only after FAILED or if ``generation`` was
    raised. If a worker dies after the start and before the job's id is recorded, the next try repeats the client token
    and gets the same job. If the service refuses the token because parameters were changed meanwhile, the job is found
    by its name.

    Parameters
    ----------
    job_name : str, optional
        Name of the job. Characters that the service does not allow become ``-``, and the name is cut to 55 characters:
        the rest identifies work and generation, so that a job whose id was lost is found by its name.
        (default: DAG id, task id and map index) (templated)
    idempotency_key : str, optional
        Identifies the work: another key means other work and another job. Keep patient identifiers out of it.
        (default: the task instance and a hash of :attr:`work_name`) (templated)
    generation : int or str
        The lowest generation to use. Jobs are counted from 0 for each key, and a retry after a FAILED job raises the
        count. Set it above the last generation to get a new job although the old one succeeded. The logs name the
        generation in use. (default: 0) (templated)
    max_generations : int
        The most jobs for one ``generation``: the first, and those that retries start after FAILED. After them the task
        fails at once; clearing it then starts one more. (default: 3)
    **kwargs
        Of :class:`healthaws.patience.PatientOperator`, of the amazon provider's operators (``aws_conn_id``,
        ``region_name``, ``verify``, ``botocore_config``) and of :class:`airflow.sdk.BaseOperator`.

    Notes
    -----
    A subclass may record the job elsewhere (:meth:`load_job`, :meth:`save_job`), or start it only at certain times
    (:meth:`starts_at`).
    """

    job_kind: ClassVar[JobKind]
    job_key: ClassVar[str]
    illegal_in_job_name: ClassVar[re.Pattern[str]]
    output_s3_uri: str

    def __init__(
        self,
        *,
        job_name: str | None = None,
        idempotency_key: str | None = None,
        generation: int | str = 0,
        max_generations: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.idempotency_key = idempotency_key
        self.generation = generation
        self.max_generations = max_generations

    @abstractmethod
    def take_up(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        Reconnect to the job or start it; Airflow resumes here after a pause.

        Parameters
        ----------
        context : Context
            The task's context.
        event : dict, optional
            The event of the pause.
        """

    @abstractmethod
    def start_job(self, client_token: str, job_name: str) -> str:
        """
        Ask the service to start the job.

        Parameters
        ----------
        client_token : str
            Identifies the request: the service answers a repeated token with the job of the first request.
        job_name : str
            A name that the service allows.

        Returns
        -------
        str
            The job id.
        """

    @abstractmethod
    def describe_job(self, job_id: str) -> dict[str, Any]:
        """
        Return the properties of a job.

        Parameters
        ----------
        job_id : str
            The job.
        """

    @abstractmethod
    def find_job(self, job_name: str) -> dict[str, Any] | None:
        """
        Return the properties of the job with a name; None if there is no such job.

        Parameters
        ----------
        job_name : str
            The name.
        """

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """The properties, by name, that every job for this work has, even if other parameters were changed."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The other requested properties by name, without the output."""

    @property
    def work_name(self) -> str:
        """The name of the work where ``idempotency_key`` gives none: what is read, and where it goes."""
        return "|".join(map(str, self.identity.values()))

    def starts_at(self, now: datetime) -> datetime:
        """
        Return the earliest time at which a job may be started; called before each start.

        Until then the task waits, in the triggerer if ``deferrable``, and uses up none of its retries. The task waits
        for an existing job at any time.

        Parameters
        ----------
        now : datetime.datetime
            The time, aware.

        Returns
        -------
        datetime.datetime
            Here ``now``; a subclass may return a later time.
        """
        return now

    def load_job(self, context: Context) -> ImportJob | None:
        """
        Return the job that an earlier try recorded.

        Parameters
        ----------
        context : Context
            The task's context.

        Returns
        -------
        ImportJob or None
            None if no earlier try recorded a job.
        """
        stored: Any = context["task_state_store"].get(self.job_key)
        return ImportJob(**stored) if stored else None

    def save_job(self, context: Context, job: ImportJob) -> None:
        """
        Record the job for later tries: before the start without its id, after it with the id.

        Parameters
        ----------
        context : Context
            The task's context.
        job : ImportJob
            The job.
        """
        # One value under one key: a crash between two writes could pair an old job with a new generation.
        context["task_state_store"].set(self.job_key, asdict(job))

    def work_key(self, context: Context) -> str:
        """
        Return the key of the work.

        Parameters
        ----------
        context : Context
            The task's context.

        Returns
        -------
        str
            ``idempotency_key``, or the task instance with a hash of :attr:`work_name`: a mapped task that is cleared
            together with the task that it is mapped over may get other work under the same map index.
        """
        if self.idempotency_key:
            return self.idempotency_key
        ti = context["ti"]
        work = hashlib.sha256(self.work_name.encode()).hexdigest()[:16]
        return f"{ti.dag_id}|{ti.run_id}|{ti.task_id}|{ti.map_index}|{work}"

    def _current_job(self, context: Context) -> ImportJob:
        key, lowest = self.work_key(context), self._lowest_generation()
        job = self.load_job(context)
        if job is None or job.idempotency_key != key or job.generation < lowest:
            return ImportJob(key, lowest)
        return job

    def _lowest_generation(self) -> int:
        if not str(self.generation).strip().isdecimal():
            raise AirflowFailException(f"generation must be a whole number from 0, not {self.generation!r}")
        return int(self.generation)

    def _is_last(self, job: ImportJob) -> bool:
        return job.generation >= self._lowest_generation() + self.max_generations - 1

    def _report(self, job_id: str) -> JobReport:
        return self.job_kind.report(self.describe_job(job_id))

    def _reconnect_or_start(self, context: Context) -> tuple[str, JobReport | None]:
        """Return the job id, with the service's report if an earlier try started the job."""
        job = self._current_job(context)
        if job.job_id:
            report = self._report(job.job_id)
            self.log.info("Found %s, generation %s: %s", report.subject, job.generation, report.status)
            if report.status != FAILED or self._is_last(job):
                return job.job_id, report
            job = job.next()
        return self._start(context, job), None

    def _wait_to_start(self) -> None:
        """Wait until a job may be started; a deferral resumes in :meth:`take_up`, which calls this again."""
        while (moment := self.starts_at(now := datetime.now(UTC))) > now:
            self.log.info("No job is started before %s.", moment.isoformat(timespec="minutes"))
            if self.deferrable:
                self.defer(trigger=PauseTrigger(moment.timestamp(), {}), method_name="take_up")
            time.sleep((moment - now).total_seconds())

    def _start(self, context: Context, job: ImportJob) -> str:
        self._wait_to_start()
        started_before = self.load_job(context) == job
        self.save_job(context, job)  # before the start, so that a crash in between repeats this token
        name = self._legal_job_name(context, job)
        try:
            job_id = self.start_job(job.client_token, name)
        except ClientError as error:
            if not is_token_conflict(error, started_before=started_before):
                raise
            job_id = self._adopt(name, error)
        else:
            self.log.info("Started %s %s, generation %s", self.job_kind.name, job_id, job.generation)
        self.save_job(context, replace(job, job_id=job_id))
        return job_id

    def _adopt(self, name: str, error: ClientError) -> str:
        """Return the id of the job that this client token has started; raise if no such job is found."""
        found = self._find_own_job(name)
        if found is None:
            if error.response["Error"]["Code"] != "ConflictException" or self.is_passing(error):
                raise error
            raise JobConflictError(
                f"{without_keys(str(error))}. No {self.job_kind.name} {name} with this input was found. If the "
                "parameters were changed after a try started it, change them back, or raise generation for a new job."
            ) from None
        job_id = self.job_kind.report(found).job_id
        differ = differences(self.parameters, found)
        if self.hook.output_folder(found).rstrip("/").rpartition("/")[0] != self.output_s3_uri.rstrip("/"):
            differ.append("output")
        self.log.warning(
            "Reconnecting to %s %s, which an earlier try started. It differs from the present parameters in: %s. "
            "To start a job with the present parameters, raise generation.",
            self.job_kind.name,
            job_id,
            ", ".join(differ) or "nothing that the service returns",
        )
        return job_id

    def _find_own_job(self, name: str) -> dict[str, Any] | None:
        """Return the properties of the job for this work; None if there is none, or listing jobs is not allowed."""
        try:
            found = self.find_job(name)
        except ClientError as error:
            refusal = rejection(error)
            if refusal is None:
                raise
            self.log.warning("Cannot look up whether an earlier try started the job: %s", refusal)
            return None
        return None if found is None or differences(self.identity, found) else found

    @override
    def is_passing(self, error: ClientError) -> bool:
        code = error.response.get("Error", {}).get("Code")
        datastore_id: str | None = getattr(self, "datastore_id", None)
        is_start = error.operation_name.startswith("Start")
        if datastore_id is None or not is_start or code not in {"ConflictException", "ValidationException"}:
            return False
        try:
            status = self.hook.datastore_status(datastore_id)
        except ClientError:
            return False  # without the right to ask, the first refusal is raised
        return status is not None and status in CHANGING_DATASTORE_STATUS

    def _legal_job_name(self, context: Context, job: ImportJob) -> str:
        ti = context["ti"]
        index = "" if ti.map_index is None or ti.map_index < 0 else f".{ti.map_index}"
        return job.named(self.illegal_in_job_name.sub("-", self.job_name or f"{ti.dag_id}.{ti.task_id}{index}"))
