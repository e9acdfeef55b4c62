from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from healthaws.exceptions import (
    JobFailedError,
    JobUnfinishedError,
    UnknownJobStatusError,
)
from healthaws.sensors.healthimaging import HealthImagingDicomImportJobSensor
from healthaws.triggers.healthimaging import HealthImagingDicomImportJobCompletedTrigger
from tests.unit.healthaws.service import DATASTORE, HTTP_STATUS, JOB, WHERE, get_reply

if TYPE_CHECKING:
    from airflow.sdk import Context


def sensor(**more: Any) -> HealthImagingDicomImportJobSensor:
    given = {"task_id": "wait", "datastore_id": DATASTORE, "job_id": JOB, "aws_conn_id": None, "poke_interval": 0}
    return HealthImagingDicomImportJobSensor(**given | {"region_name": "us-east-1"} | more)


def script(stub: Stubber, *lines: str) -> None:
    """Let the service answer with job statuses and errors, in this order."""
    for line in lines:
        if line in HTTP_STATUS:
            stub.add_client_error("get_dicom_import_job", line, "because", HTTP_STATUS[line], expected_params=WHERE)
        else:
            stub.add_response("get_dicom_import_job", get_reply(line, message="why"), WHERE)


def test_template_fields() -> None:
    assert {"datastore_id", "job_id", "region_name"} <= set(sensor().template_fields)


class TestPoke:
    def test_waits_in_the_worker(self, context: Context) -> None:
        task = sensor()
        with Stubber(task.hook.conn) as stub:
            script(stub, "SUBMITTED", "IN_PROGRESS", "COMPLETED")
            task.execute(context)
            stub.assert_no_pending_responses()

    @pytest.mark.parametrize("refusal", ["ThrottlingException", "ServiceQuotaExceededException"])
    def test_a_refused_poke_is_not_yet(self, refusal: str, context: Context) -> None:
        task = sensor()
        with Stubber(task.hook.conn) as stub:
            script(stub, refusal, "COMPLETED")
            assert [task.poke(context), task.poke(context)] == [False, True]

    def test_failed_job_fails_at_once(self, context: Context) -> None:
        task = sensor()
        with Stubber(task.hook.conn) as stub:
            script(stub, "FAILED")
            with pytest.raises(JobFailedError, match=f"{JOB}.*FAILED: why") as caught:
                task.execute(context)
        assert isinstance(caught.value, AirflowFailException)

    def test_unknown_status(self, context: Context) -> None:
        task = sensor()
        with Stubber(task.hook.conn) as stub:
            script(stub, "CANCELLED")
            with pytest.raises(UnknownJobStatusError, match="CANCELLED"):
                task.execute(context)

    def test_rejection_fails_at_once_with_the_service_s_message(self, context: Context) -> None:
        task = sensor()
        with Stubber(task.hook.conn) as stub:
            script(stub, "ResourceNotFoundException")
            with pytest.raises(AirflowFailException, match="ResourceNotFoundException: because"):
                task.execute(context)

    def test_internal_error_is_left_to_airflow(self, context: Context) -> None:
        task = sensor()
        with Stubber(task.hook.conn) as stub:
            script(stub, "InternalServerException")
            with pytest.raises(ClientError):
                task.execute(context)

    def test_times_out(self, context: Context) -> None:
        task = sensor(timeout=0)
        with Stubber(task.hook.conn) as stub:
            script(stub, "IN_PROGRESS")
            with pytest.raises(AirflowSensorTimeout):
                task.execute(context)


class TestDeferrable:
    def test_a_finished_job_needs_no_trigger(self, context: Context) -> None:
        task = sensor(deferrable=True)
        with Stubber(task.hook.conn) as stub:
            script(stub, "COMPLETED")
            task.execute(context)

    def test_defers_with_the_settings_of_the_sensor(self, context: Context) -> None:
        task = sensor(deferrable=True, poke_interval=20, timeout=100, verify=False, botocore_config={"read_timeout": 5})
        with Stubber(task.hook.conn) as stub:
            script(stub, "IN_PROGRESS")
            with pytest.raises(TaskDeferred) as caught:
                task.execute(context)
        trigger = caught.value.trigger
        assert isinstance(trigger, HealthImagingDicomImportJobCompletedTrigger)
        assert (trigger.waiter_delay, trigger.attempts) == (20, 6)
        assert (trigger.region_name, trigger.verify, trigger.botocore_config) == (
            "us-east-1",
            False,
            {"read_timeout": 5},
        )
        assert caught.value.timeout == timedelta(seconds=100)

    def test_success_event_needs_no_further_question(self, context: Context) -> None:
        task = sensor(deferrable=True)
        with Stubber(task.hook.conn):
            task.execute_complete(context, {"status": "success", "job_id": JOB})

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            ("FAILED", JobFailedError),
            ("IN_PROGRESS", JobUnfinishedError),
            ("CANCELLED", UnknownJobStatusError),
        ],
    )
    def test_error_event_is_explained_by_the_service(
        self, status: str, error: type[Exception], context: Context
    ) -> None:
        task = sensor(deferrable=True)
        event = {"status": "error", "message": "max attempts reached", "job_id": JOB}
        with Stubber(task.hook.conn) as stub:
            script(stub, status)
            with pytest.raises(error, match=JOB):
                task.execute_complete(context, event)
