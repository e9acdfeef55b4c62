"""An operator, and a script of what its service is asked and answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import pytest
from airflow.sdk.exceptions import TaskDeferred
from botocore.stub import Stubber

from healthaws.jobs import ImportJob
from healthaws.operators.healthimaging_import_jobs import JOB_KEY, HealthImagingStartDicomImportJobOperator
from healthaws.triggers.jobs import JobCompletedTrigger
from healthaws.triggers.pause import PauseTrigger
from tests.unit.healthaws.service import (
    DATASTORE,
    HTTP_STATUS,
    INPUT,
    JOB,
    OUTPUT,
    ROLE,
    WHERE,
    get_reply,
    start_reply,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from healthaws.operators.jobs import StartJobOperator
    from tests.unit.healthaws.conftest import Store

KEY = "batch-1"
FAILED_EVENT = {"status": "error", "message": "terminal failure", "job_id": JOB}
PATIENCE = {"backoff_initial_delay": 0, "backoff_max_delay": 0}


def operator(kind: Any = HealthImagingStartDicomImportJobOperator, **more: Any) -> Any:
    given: dict[str, Any] = {
        "task_id": "import",
        "datastore_id": DATASTORE,
        "data_access_role_arn": ROLE,
        "input_s3_uri": INPUT,
        "output_s3_uri": OUTPUT,
        "idempotency_key": KEY,
        "deferrable": True,
        "waiter_delay": 0,
        "aws_conn_id": None,
        "region_name": "us-east-1",
    }
    return kind(**given | more)


class BaseScript:
    """What a service is asked, and what it answers, in order; all of it must happen."""

    def __init__(self, task: Any) -> None:
        self.stub = Stubber(task.hook.conn)

    def answer(
        self, operation: str, request: dict[str, Any], reply: dict[str, Any] | str, text: str = "because"
    ) -> Self:
        """Add one line: a reply, or the name of an error."""
        if isinstance(reply, str):
            self.stub.add_client_error(operation, reply, text, HTTP_STATUS[reply], expected_params=request)
        else:
            self.stub.add_response(operation, reply, request)
        return self

    def __enter__(self) -> Self:
        self.stub.activate()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.stub.deactivate()
        if error is None:
            self.stub.assert_no_pending_responses()


class Script(BaseScript):
    """The DICOM import jobs of HealthImaging."""

    def start(self, answer: str = JOB, *, generation: int = 0, key: str = KEY, text: str = "because") -> Script:
        request = {
            "jobName": ImportJob(key, generation).named("dag.import"),
            "clientToken": ImportJob(key, generation).client_token,
            "datastoreId": DATASTORE,
            "dataAccessRoleArn": ROLE,
            "inputS3Uri": INPUT,
            "outputS3Uri": OUTPUT,
        }
        reply = answer if answer in HTTP_STATUS else start_reply(answer)
        return self.answer("start_dicom_import_job", request, reply, text)

    def store(self, status: str) -> Script:
        """Add the question what state the data store is in."""
        known = {"datastoreId": DATASTORE, "datastoreName": "test", "datastoreStatus": status}
        return self.answer("get_datastore", {"datastoreId": DATASTORE}, {"datastoreProperties": known})

    def get(self, answer: str, job_id: str = JOB) -> Script:
        reply = answer if answer in HTTP_STATUS else get_reply(answer, job_id, message="why")
        return self.answer("get_dicom_import_job", {**WHERE, "jobId": job_id}, reply)


def deferred(task: StartJobOperator[Any], context: Context) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(context)
    return caught.value


def awaited_job(deferral: TaskDeferred) -> Any:
    assert isinstance(deferral.trigger, JobCompletedTrigger)
    assert deferral.method_name == "execute_complete"
    return deferral.trigger.return_value


def pause(deferral: TaskDeferred) -> PauseTrigger:
    assert isinstance(deferral.trigger, PauseTrigger)
    return deferral.trigger


def resume(task: StartJobOperator[Any], context: Context, deferral: TaskDeferred) -> Any:
    """Resume as Airflow does after a pause: with the trigger's event, which has been through JSON."""
    event = json.loads(json.dumps(pause(deferral).event))
    return task.resume_execution(deferral.method_name, {"event": event}, context)


def remember(store: Store, job_id: str | None, generation: int = 0, key: str = KEY, under: str = JOB_KEY) -> None:
    store.set(under, asdict(ImportJob(key, generation, job_id)))
