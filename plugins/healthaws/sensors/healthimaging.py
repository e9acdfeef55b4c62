"""AWS HealthImaging sensors."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.sensors.base_aws import AwsBaseSensor
from airflow.providers.amazon.aws.utils import validate_execute_complete_event
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.providers.common.compat.sdk import conf
from botocore.exceptions import ClientError

from healthaws.exceptions import (
    HealthImagingImportJobFinallyFailedError,
    HealthImagingImportJobUnfinishedError,
    HealthImagingUnknownJobStatusError,
)
from healthaws.hooks.healthimaging import ACTIVE_JOB_STATUS, JOB_COMPLETED, JOB_FAILED, HealthImagingHook
from healthaws.refusals import is_busy, rejection
from healthaws.triggers.healthimaging import HealthImagingDicomImportJobCompletedTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class HealthImagingDicomImportJobSensor(AwsBaseSensor[HealthImagingHook]):
    """
    Wait until a HealthImaging DICOM import job is COMPLETED; fail at once when it is FAILED.

    COMPLETED says that the job ran, not that its files went in: the manifest in the output folder does. Give a
    deferrable sensor ``retries`` of 2 or more: Airflow may fail a task whose trigger fires soon after the deferral.

    Parameters
    ----------
    datastore_id : str
        The data store of the job. (templated)
    job_id : str
        The job. (templated)
    deferrable : bool
        Whether to wait in the triggerer; needs aiobotocore. (default: ``[operators] default_deferrable``)
    poke_interval : float
        Seconds between polls. (default: 30)
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
        Of :class:`airflow.sdk.BaseSensorOperator`, such as ``timeout`` in seconds and ``mode``.
    """

    aws_hook_class = HealthImagingHook
    template_fields: Sequence[str] = aws_template_fields("datastore_id", "job_id")
    ui_color = "#66c3ff"

    def __init__(
        self,
        *,
        datastore_id: str,
        job_id: str,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: float = 30,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.datastore_id = datastore_id
        self.job_id = job_id
        self.deferrable = deferrable

    def execute(self, context: Context) -> None:
        """
        Wait in the worker, or defer unless the job is already done.

        Parameters
        ----------
        context : Context
            The task's context.
        """
        if not self.deferrable:
            super().execute(context)
        elif not self.poke(context):
            self._defer()

    def poke(self, context: Context) -> bool:  # noqa: ARG002 - the signature is the base class's
        """
        Ask once whether the job is COMPLETED; a throttled request counts as "not yet".

        Parameters
        ----------
        context : Context
            The task's context.

        Raises
        ------
        HealthImagingImportJobFinallyFailedError
            If the job is FAILED.
        HealthImagingUnknownJobStatusError
            If the service reports an unknown status.
        RequestRejectedError
            If the service rejects the request.
        """
        properties = self._properties()
        status = properties["jobStatus"] if properties else None
        self.log.info("Status of DICOM import job %s: %s", self.job_id, status or "not known, the service is busy")
        if properties is None or status in ACTIVE_JOB_STATUS:
            return False
        if status == JOB_COMPLETED:
            return True
        if status == JOB_FAILED:
            raise HealthImagingImportJobFinallyFailedError.of(properties)
        raise HealthImagingUnknownJobStatusError.of(properties)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> None:
        """
        Take up the task after the trigger has fired.

        Parameters
        ----------
        context : Context
            The task's context.
        event : dict
            The trigger's event.

        Raises
        ------
        HealthImagingImportJobUnfinishedError
            If waiting ended before the job did; for what else is raised see :meth:`poke`.
        """
        event = validate_execute_complete_event(event)
        if event["status"] != "success" and not self.poke(context):
            job = {"datastoreId": self.datastore_id, "jobId": self.job_id, "jobStatus": "unfinished"}
            raise HealthImagingImportJobUnfinishedError.of(job, event["message"])

    def _properties(self) -> dict[str, Any] | None:
        try:
            return self.hook.get_dicom_import_job(self.datastore_id, self.job_id)
        except ClientError as error:
            if is_busy(error.response):
                return None
            if rejected := rejection(error):
                raise rejected from error
            raise

    def _defer(self) -> None:
        delay = max(1, int(self.poke_interval))
        self.defer(
            trigger=HealthImagingDicomImportJobCompletedTrigger(
                datastore_id=self.datastore_id,
                job_id=self.job_id,
                waiter_delay=delay,
                waiter_max_attempts=math.ceil(self.timeout / delay) + 1,
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
                verify=self.verify,
                botocore_config=self.botocore_config,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )
