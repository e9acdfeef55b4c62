"""What sensors of HealthLake's jobs have of their own; what all share is tested with HealthImaging's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from healthaws.exceptions import (
    JobCancelledError,
    JobCompletedWithErrorsError,
    JobFinallyFailedError,
    JobUnfinishedError,
    UnknownJobStatusError,
)
from healthaws.sensors.healthlake import HealthLakeDataTransformationJobSensor, HealthLakeFhirImportJobSensor
from healthaws.triggers.healthlake import HealthLakeFhirImportJobCompletedTrigger
from tests.unit.healthaws.healthlake import IMPORTS, STORE, TRANSFORMATIONS, Jobs, JobScript
from tests.unit.healthaws.service import JOB

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

GIVEN: dict[str, Any] = {
    "task_id": "wait",
    "job_id": JOB,
    "aws_conn_id": None,
    "region_name": "us-east-1",
    "poke_interval": 0,
}


def import_sensor(**more: Any) -> HealthLakeFhirImportJobSensor:
    return HealthLakeFhirImportJobSensor(**{**GIVEN, "datastore_id": STORE} | more)


def transformation_sensor(**more: Any) -> HealthLakeDataTransformationJobSensor:
    return HealthLakeDataTransformationJobSensor(**GIVEN | more)


KINDS = pytest.mark.parametrize(("make", "jobs"), [(import_sensor, IMPORTS), (transformation_sensor, TRANSFORMATIONS)])


@KINDS
def test_waits_in_the_worker(make: Callable[..., Any], jobs: Jobs, context: Context) -> None:
    task = make()
    script = JobScript(task, jobs)
    for status in ("SUBMITTED", "QUEUED", "ThrottlingException", "IN_PROGRESS", "COMPLETED"):
        script.describe(status)
    with script:
        task.execute(context)


@KINDS
def test_finished_job_needs_no_trigger(make: Callable[..., Any], jobs: Jobs, context: Context) -> None:
    task = make(deferrable=True)
    with JobScript(task, jobs).describe("COMPLETED"):
        task.execute(context)


@KINDS
def test_defers_while_the_job_is_queued(make: Callable[..., Any], jobs: Jobs, context: Context) -> None:
    task = make(deferrable=True)
    with JobScript(task, jobs).describe("QUEUED"), pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    assert caught.value.trigger.return_value == JOB


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("FAILED", JobFinallyFailedError),
        ("COMPLETED_WITH_ERRORS", JobCompletedWithErrorsError),
        ("CANCEL_COMPLETED", JobCancelledError),
        ("CANCEL_FAILED", JobCancelledError),
        ("PAUSED", UnknownJobStatusError),
    ],
)
def test_fails_at_once_at_every_other_end(status: str, error: type[Exception], context: Context) -> None:
    task = import_sensor()
    with JobScript(task).describe(status), pytest.raises(error, match=f"{JOB}.*{status}"):
        task.execute(context)


def test_may_take_errors_for_an_end(context: Context) -> None:
    task = import_sensor(completed_with_errors="return")
    event = {"status": "error", "message": "terminal failure", "job_id": JOB}
    with JobScript(task).describe("COMPLETED_WITH_ERRORS").describe("COMPLETED_WITH_ERRORS"):
        task.execute(context)
        task.execute_complete(context, event)


def test_setting_is_one_of_two() -> None:
    with pytest.raises(ValueError, match='"fail" or "return"'):
        import_sensor(completed_with_errors="ignore")


def test_queue_and_work_share_the_timeout(context: Context) -> None:
    task = import_sensor(deferrable=True, poke_interval=20, timeout=100)
    with JobScript(task).describe("QUEUED"), pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    trigger = caught.value.trigger
    assert isinstance(trigger, HealthLakeFhirImportJobCompletedTrigger)
    assert (trigger.queued_attempts, trigger.attempts) == (6, 6)


def test_wait_that_ended_before_the_job(context: Context) -> None:
    task = import_sensor(deferrable=True)
    event = {"status": "error", "message": "max attempts reached", "job_id": JOB}
    with JobScript(task).describe("QUEUED"), pytest.raises(JobUnfinishedError, match=f"{JOB}.*max attempts"):
        task.execute_complete(context, event)
