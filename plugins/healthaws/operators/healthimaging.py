"""AWS HealthImaging operators."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.operators.base_aws import AwsBaseOperator
from airflow.providers.amazon.aws.utils import validate_execute_complete_event
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.providers.common.compat.sdk import conf
from airflow.sdk.exceptions import AirflowFailException

from healthaws.exceptions import (
    HealthImagingImportJobFailedError,
    HealthImagingImportJobFinallyFailedError,
    HealthImagingImportJobUnfinishedError,
    HealthImagingUnknownJobStatusError,
)
from healthaws.hooks.healthimaging import ACTIVE_JOB_STATUS, JOB_COMPLETED, JOB_FAILED, HealthImagingHook
from healthaws.jobs import ImportJob
from healthaws.links.healthimaging import HealthImagingDicomImportJobLink
from healthaws.patience import PatientOperator
from healthaws.triggers.healthimaging import HealthImagingDicomImportJobCompletedTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

JOB_KEY = "healthimaging_dicom_import_job"
ILLEGAL_IN_JOB_NAME = re.compile(r"[^A-Za-z0-9._/#-]+")


class HealthImagingStartDicomImportJobOperator(PatientOperator, AwsBaseOperator[HealthImagingHook]):
    """
    Import DICOM files from S3 into a HealthImaging data store.

    One piece of work makes one job. The job is remembered in the task state store, which outlives retries and
    clearing: a later try reconnects to a running job, takes the result of a finished one, and starts another only
    after FAILED or when ``generation`` was raised. A worker that dies between the start and the note of the job's id
    repeats the same client token, and so gets the same job.

    Throttling (429) and quota refusals (402) are waited out with growing pauses, in the triggerer if ``deferrable``,
    and use up none of the task's retries. Validation, access and not-found errors fail the task at once.

    Returns the job id. COMPLETED says that the job ran, not that its files went in: the manifest in
    :meth:`HealthImagingHook.output_folder` does.

    Give a deferrable task ``retries`` of 2 or more: Airflow may fail a task whose trigger fires soon after the
    deferral, and the next try reconnects.

    Parameters
    ----------
    datastore_id : str
        The data store to import into. (templated)
    data_access_role_arn : str
        Role that the service assumes to read the input and to write the output. (templated)
    input_s3_uri : str
        Prefix to import; everything below it goes in. (templated)
    output_s3_uri : str
        Prefix below which the service makes a folder for the job's results. (templated)
    job_name : str, optional
        Name of the job. What the service does not allow becomes ``-``, and 64 characters are kept.
        (default: DAG id, task id and map index) (templated)
    input_owner_account_id : str, optional
        Account that owns the input bucket; needed across accounts. (templated)
    idempotency_key : str, optional
        Names the work, so that another key means other work and another job. Keep patient identifiers out of it.
        (default: the task instance and a hash of data store and input prefix) (templated)
    generation : int or str
        The lowest generation to use. Jobs are counted from 0 for each key, and each FAILED job that a retry replaces
        raises the count; set it above the last to ask for a new job though the old one was good. The logs name the
        generation in use. (default: 0) (templated)
    max_generations : int
        Most jobs started for one ``generation``: the first and those that retries start after FAILED. Then the task
        fails at once; a person who clears it asks for one more. (default: 3)
    wait_for_completion : bool
        Whether to wait for the job; without it the task ends once the job is started. (default: True)
    deferrable : bool
        Whether to wait in the triggerer. This implies waiting for completion and needs aiobotocore.
        (default: ``[operators] default_deferrable``)
    waiter_delay : int
        Seconds between polls. (default: 30)
    waiter_max_attempts : int
        Polls before the try gives up; the next one reconnects. (default: 480)
    backoff_initial_delay : float
        Longest first pause after a refusal, in seconds; doubled for each refusal in a row. (default: 30)
    backoff_max_delay : float
        Longest pause, in seconds. (default: 600)
    backoff_timeout : float
        How long refusals in a row are borne, in seconds, before the try fails. (default: 21600)
    role_timeout : float
        How long a start is repeated because the service cannot assume the role, in seconds: a new role takes a
        while. (default: 300)
    aws_conn_id : str, optional
        The Airflow connection used for AWS credentials. If None or empty, boto3's default behaviour is used, which
        must then be set up on every worker. (templated)
    region_name : str, optional
        AWS region; without it that of the connection, or boto3's default. (templated)
    verify : bool or str, optional
        Whether to verify SSL certificates, or the path of a CA bundle. (templated)
    botocore_config : dict, optional
        Configuration of the botocore client.
    **kwargs
        Of :class:`airflow.sdk.BaseOperator`.

    Notes
    -----
    A subclass may keep the job elsewhere (:meth:`load_job`, :meth:`save_job`), return something else
    (:meth:`complete`), or take a failed job for a result (:meth:`job_failed`).
    """

    aws_hook_class = HealthImagingHook
    template_fields: Sequence[str] = aws_template_fields(
        "datastore_id",
        "data_access_role_arn",
        "input_s3_uri",
        "output_s3_uri",
        "job_name",
        "input_owner_account_id",
        "idempotency_key",
        "generation",
    )
    operator_extra_links = (HealthImagingDicomImportJobLink(),)
    ui_color = "#66c3ff"

    def __init__(
        self,
        *,
        datastore_id: str,
        data_access_role_arn: str,
        input_s3_uri: str,
        output_s3_uri: str,
        job_name: str | None = None,
        input_owner_account_id: str | None = None,
        idempotency_key: str | None = None,
        generation: int | str = 0,
        max_generations: int = 3,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        waiter_delay: int = 30,
        waiter_max_attempts: int = 480,
        **kwargs: Any,
    ) -> None:
        super().__init__(deferrable=deferrable, **kwargs)
        self.datastore_id = datastore_id
        self.data_access_role_arn = data_access_role_arn
        self.input_s3_uri = input_s3_uri
        self.output_s3_uri = output_s3_uri
        self.job_name = job_name
        self.input_owner_account_id = input_owner_account_id
        self.idempotency_key = idempotency_key
        self.generation = generation
        self.max_generations = max_generations
        self.wait_for_completion = wait_for_completion
        self.waiter_delay = waiter_delay
        self.waiter_max_attempts = waiter_max_attempts
        self._job_id: str | None = None

    def execute(self, context: Context) -> Any:
        """
        Reconnect to the job or start it, and wait as told.

        Parameters
        ----------
        context : Context
            The task's context.

        Returns
        -------
        Any
            What :meth:`complete` returns; the job id if the job is not waited for.

        Raises
        ------
        HealthImagingImportJobFailedError
            If the job is FAILED; a retry starts the next generation.
        HealthImagingImportJobFinallyFailedError
            If the job is FAILED and ``max_generations`` are used up.
        HealthImagingImportJobUnfinishedError
            If ``waiter_max_attempts`` are used up.
        HealthImagingUnknownJobStatusError
            If the service reports an unknown status.
        RequestRejectedError
            If the service rejects a request for its content or for want of access.
        ServiceBusyError
            If throttling or a quota refusal outlasts ``backoff_timeout``.
        """
        return self.take_up(context)

    def take_up(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        Do what :meth:`execute` says; a pause after a refusal resumes here.

        Parameters
        ----------
        context : Context
            The task's context.
        event : dict, optional
            The event of the pause.
        """
        job_id, properties = self.ask_patiently(partial(self._reconnect_or_start, context), "take_up", event or {})
        self._announce(context, job_id)
        if properties and properties["jobStatus"] not in ACTIVE_JOB_STATUS:
            return self._settle(context, properties, waited="")
        if self.deferrable:
            self._defer_until_complete(job_id)
        if self.wait_for_completion:
            return self._settle(context, self._wait(job_id), waited=f"{self.waiter_max_attempts} polls are used up")
        return job_id

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        Ask what became of the job after the trigger has fired; a pause after a refusal resumes here, too.

        Parameters
        ----------
        context : Context
            The task's context.
        event : dict
            The trigger's event. It is only a wake-up; what became of the job, the service says.
        """
        event = validate_execute_complete_event(event)
        ask = partial(self.hook.get_dicom_import_job, self.datastore_id, event["job_id"])
        properties = self.ask_patiently(ask, "execute_complete", event)
        return self._settle(context, properties, waited=event.get("message", "the trigger ended early"))

    def load_job(self, context: Context) -> ImportJob | None:
        """
        Read what an earlier try noted about the job.

        Parameters
        ----------
        context : Context
            The task's context.

        Returns
        -------
        ImportJob or None
            None if there was no earlier try, or it noted nothing.
        """
        stored: Any = context["task_state_store"].get(JOB_KEY)
        return ImportJob(**stored) if stored else None

    def save_job(self, context: Context, job: ImportJob) -> None:
        """
        Note the job for later tries: before the start without its id, after it with the id.

        Parameters
        ----------
        context : Context
            The task's context.
        job : ImportJob
            The job.
        """
        # One value under one key: a crash between two writes could pair an old job with a new generation.
        context["task_state_store"].set(JOB_KEY, asdict(job))

    def complete(self, context: Context, properties: dict[str, Any]) -> Any:  # noqa: ARG002 - for subclasses
        """
        Make the task's result from a COMPLETED job.

        Parameters
        ----------
        context : Context
            The task's context.
        properties : dict
            ``jobProperties`` of GetDICOMImportJob.

        Returns
        -------
        Any
            Goes to XCom; here the job id.
        """
        return properties["jobId"]

    def job_failed(self, context: Context, properties: dict[str, Any]) -> Any:
        """
        Fail the task because of a FAILED job, at once if no further job may be started.

        Parameters
        ----------
        context : Context
            The task's context.
        properties : dict
            ``jobProperties`` of GetDICOMImportJob.

        Returns
        -------
        Any
            A subclass may return a result instead of raising.
        """
        job = self.load_job(context)
        if job is None or not self._is_last(job):
            raise HealthImagingImportJobFailedError.of(properties)
        # No retry follows. Whoever clears the task later asks for one more job, and this is its generation.
        self.save_job(context, job.next())
        raise HealthImagingImportJobFinallyFailedError.of(
            properties,
            f"It was generation {job.generation}, the last that retries may start. "
            "Cure the cause and clear the task to start one more job.",
        )

    def on_kill(self) -> None:
        """Leave a trace: the service cannot cancel an import."""
        if self._job_id:
            self.log.warning(
                "The task was killed. HealthImaging has no cancel: DICOM import job %s goes on, and the next try "
                "reconnects to it.",
                self._job_id,
            )

    def work_key(self, context: Context) -> str:
        """
        Name the work.

        Parameters
        ----------
        context : Context
            The task's context.

        Returns
        -------
        str
            ``idempotency_key``, or the task instance with a hash of data store and input prefix: a mapped task that
            is cleared together with what it is mapped over may get other work under the same map index.
        """
        if self.idempotency_key:
            return self.idempotency_key
        ti = context["ti"]
        place = hashlib.sha256(f"{self.datastore_id}|{self.input_s3_uri}".encode()).hexdigest()[:16]
        return f"{ti.dag_id}|{ti.run_id}|{ti.task_id}|{ti.map_index}|{place}"

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

    def _reconnect_or_start(self, context: Context) -> tuple[str, dict[str, Any] | None]:
        """Return the job id, with the job's properties if it was known before."""
        job = self._current_job(context)
        if job.job_id:
            properties = self.hook.get_dicom_import_job(self.datastore_id, job.job_id)
            status = properties["jobStatus"]
            self.log.info("Found DICOM import job %s, generation %s: %s", job.job_id, job.generation, status)
            if status != JOB_FAILED or self._is_last(job):
                return job.job_id, properties
            job = job.next()
        return self._start(context, job), None

    def _start(self, context: Context, job: ImportJob) -> str:
        self.save_job(context, job)  # before the start, so that a crash in between repeats this token
        job_id = self.hook.start_dicom_import_job(
            datastore_id=self.datastore_id,
            data_access_role_arn=self.data_access_role_arn,
            input_s3_uri=self.input_s3_uri,
            output_s3_uri=self.output_s3_uri,
            client_token=job.client_token,
            job_name=self._legal_job_name(context),
            input_owner_account_id=self.input_owner_account_id,
        )
        self.save_job(context, replace(job, job_id=job_id))
        self.log.info("Started DICOM import job %s, generation %s", job_id, job.generation)
        return job_id

    def _legal_job_name(self, context: Context) -> str:
        ti = context["ti"]
        index = "" if ti.map_index is None or ti.map_index < 0 else f".{ti.map_index}"
        return ILLEGAL_IN_JOB_NAME.sub("-", self.job_name or f"{ti.dag_id}.{ti.task_id}{index}")[:64]

    def _announce(self, context: Context, job_id: str) -> None:
        self._job_id = job_id
        HealthImagingDicomImportJobLink.persist(
            context=context,
            operator=self,
            region_name=self.hook.conn_region_name,
            aws_partition=self.hook.conn_partition,
            datastore_id=self.datastore_id,
            job_id=job_id,
        )

    def _defer_until_complete(self, job_id: str) -> None:
        self.defer(
            trigger=HealthImagingDicomImportJobCompletedTrigger(
                datastore_id=self.datastore_id,
                job_id=job_id,
                waiter_delay=self.waiter_delay,
                waiter_max_attempts=self.waiter_max_attempts,
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
                verify=self.verify,
                botocore_config=self.botocore_config,
            ),
            method_name="execute_complete",
            # Refused polls use up no attempt, so the patience for them comes on top.
            timeout=timedelta(seconds=self.waiter_delay * self.waiter_max_attempts + self.backoff.timeout),
        )

    def _wait(self, job_id: str) -> dict[str, Any]:
        """Poll in the worker, and return the last properties seen."""
        ask = partial(self.hook.get_dicom_import_job, self.datastore_id, job_id)
        properties = self.ask_patiently(ask, "execute_complete", {})
        for _ in range(1, self.waiter_max_attempts):
            if properties["jobStatus"] not in ACTIVE_JOB_STATUS:
                break
            self.log.info("Status of DICOM import job %s: %s", job_id, properties["jobStatus"])
            time.sleep(self.waiter_delay)
            properties = self.ask_patiently(ask, "execute_complete", {})
        return properties

    def _settle(self, context: Context, properties: dict[str, Any], waited: str) -> Any:
        status = properties["jobStatus"]
        self.log.info("DICOM import job %s is %s", properties["jobId"], status)
        if status == JOB_COMPLETED:
            return self.complete(context, properties)
        if status == JOB_FAILED:
            return self.job_failed(context, properties)
        if status in ACTIVE_JOB_STATUS:
            raise HealthImagingImportJobUnfinishedError.of(properties, waited)
        raise HealthImagingUnknownJobStatusError.of(properties)
