from __future__ import annotations

import time
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from botocore.exceptions import ClientError, EndpointConnectionError

from healthaws.exceptions import (
    FinalError,
    IncompleteReplyError,
    JobFailedError,
    ServiceBusyError,
)
from healthaws.operators.healthimaging_import_jobs import JOB_KEY
from tests.unit.healthaws.script import (
    KEY,
    PATIENCE,
    Script,
    awaited_job,
    deferred,
    operator,
    pause,
    remember,
    resume,
)
from tests.unit.healthaws.service import (
    JOB,
    scripted_service,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tests.unit.healthaws.conftest import Store


class TestRefusals:
    """Throttling and quota refusals cost time, never a retry."""

    @pytest.mark.parametrize("refusal", ["ThrottlingException", "ServiceQuotaExceededException"])
    def test_refused_start_defers_and_tries_again(self, refusal: str, context: Context, store: Store) -> None:
        task = operator()
        script = Script(task)
        for _ in range(6):
            script.start(refusal)
        with script.start():
            deferral = deferred(task, context)
            for refusals in range(1, 7):
                assert pause(deferral).event["refused"]["count"] == refusals
                with pytest.raises(TaskDeferred) as caught:
                    resume(task, context, deferral)
                deferral = caught.value
        assert awaited_job(deferral) == JOB
        assert store[JOB_KEY]["generation"] == 0

    def test_refused_question_about_a_known_job_defers(self, context: Context, store: Store) -> None:
        task = operator()
        remember(store, JOB)
        with Script(task).get("ThrottlingException").get("IN_PROGRESS"):
            deferral = deferred(task, context)
            with pytest.raises(TaskDeferred) as caught:
                resume(task, context, deferral)
        assert awaited_job(caught.value) == JOB

    def test_refused_question_after_the_trigger_defers_and_then_settles(self, context: Context, store: Store) -> None:
        task = operator()
        remember(store, JOB)
        with Script(task).get("ServiceQuotaExceededException").get("FAILED"):
            with pytest.raises(TaskDeferred) as caught:
                task.execute_complete(context, {"status": "error", "message": "m", "job_id": JOB})
            with pytest.raises(JobFailedError):
                resume(task, context, caught.value)

    def test_pauses_grow_and_are_never_close_to_zero(self, context: Context) -> None:
        task = operator(backoff_initial_delay=20, backoff_max_delay=300, backoff_timeout=1000)
        with Script(task).start("ThrottlingException").start("ThrottlingException"):
            before = time.time()
            first = deferred(task, context)
            with pytest.raises(TaskDeferred) as second:
                resume(task, context, first)
        assert 10 <= pause(first).until - before <= 21
        assert 20 <= pause(second.value).until - before <= 41
        assert first.timeout is not None
        assert timedelta(seconds=1010) <= first.timeout <= timedelta(seconds=1020)

    def test_patience_has_an_end(self, context: Context) -> None:
        task = operator(backoff_timeout=3600)
        with Script(task).start("ServiceQuotaExceededException").start("ServiceQuotaExceededException"):
            deferral = deferred(task, context)
            pause(deferral).event["refused"]["since"] -= 3600
            with pytest.raises(ServiceBusyError, match=r"ServiceQuotaExceededException.*because.*2 times.*3600 s"):
                resume(task, context, deferral)

    def test_wait_mode_waits_in_the_worker(self, context: Context) -> None:
        task = operator(deferrable=False, **PATIENCE)
        script = Script(task).start("ThrottlingException").start("ServiceQuotaExceededException").start()
        with script.get("ThrottlingException").get("IN_PROGRESS").get("ServiceQuotaExceededException").get("COMPLETED"):
            assert task.execute(context) == JOB

    def test_wait_mode_loses_patience_too(self, context: Context) -> None:
        task = operator(deferrable=False, backoff_timeout=0, **PATIENCE)
        with Script(task).start("ThrottlingException"), pytest.raises(ServiceBusyError, match="ThrottlingException"):
            task.execute(context)


class TestFreshRole:
    TEXT = "HealthImaging cannot assume the role"

    @pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
    def test_start_is_repeated_until_the_role_can_be_assumed(self, code: str, context: Context) -> None:
        task = operator(**PATIENCE)
        with Script(task).start(code, text=self.TEXT).start():
            deferral = deferred(task, context)
            assert pause(deferral).event["refused"]["count"] == 1
            with pytest.raises(TaskDeferred) as caught:
                resume(task, context, deferral)
        assert awaited_job(caught.value) == JOB

    def test_but_not_for_ever(self, context: Context) -> None:
        task = operator(role_timeout=300)
        with Script(task).start("AccessDeniedException", text=self.TEXT).start("AccessDeniedException", text=self.TEXT):
            deferral = deferred(task, context)
            pause(deferral).event["refused"]["since"] -= 300
            with pytest.raises(AirflowFailException, match=self.TEXT):
                resume(task, context, deferral)


class TestErrors:
    @pytest.mark.parametrize("code", ["ValidationException", "AccessDeniedException", "ResourceNotFoundException"])
    @pytest.mark.parametrize("deferrable", [True, False])
    def test_rejected_start_fails_at_once_with_the_service_s_message(
        self, code: str, deferrable: bool, context: Context
    ) -> None:
        task = operator(deferrable=deferrable)
        script = Script(task).start(code)
        if code == "ValidationException":
            script.store("ACTIVE")
        with script, pytest.raises(AirflowFailException, match=f"{code}: because") as caught:
            task.execute(context)
        assert isinstance(caught.value.__cause__, FinalError)

    @pytest.mark.parametrize(
        "text", ["denied: s3://archive/in/DOE JANE/01.dcm", "denied: arn:aws-us-gov:s3:::archive/in/DOE JANE/01.dcm"]
    )
    def test_what_the_service_quotes_of_an_address_names_no_patient(self, text: str, context: Context) -> None:
        task = operator()
        script = Script(task).start("ValidationException", text=text).store("ACTIVE")
        with script, pytest.raises(AirflowFailException) as caught:
            task.execute(context)
        shown = "".join(traceback.format_exception(caught.value))
        assert "archive/..." in shown
        assert "DOE" not in shown
        assert "JANE" not in shown

    def test_request_that_boto_refuses_to_send_fails_at_once(self, context: Context) -> None:
        with pytest.raises(AirflowFailException, match="dataAccessRoleArn"):
            operator(data_access_role_arn="x").execute(context)

    def test_internal_error_is_left_to_airflow_s_retries(self, context: Context) -> None:
        task = operator()
        with Script(task).start("InternalServerException"), pytest.raises(ClientError):
            task.execute(context)

    def test_reply_that_broke_off_is_left_to_airflow_s_retries(self, context: Context, store: Store) -> None:
        task = operator()
        with scripted_service({}) as service, pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL_MEDICAL_IMAGING", service.url)
            with pytest.raises(IncompleteReplyError, match="StartDICOMImportJob broke off"):
                task.execute(context)
        assert store[JOB_KEY] == {"idempotency_key": KEY, "generation": 0, "job_id": None}

    def test_unreachable_service_is_left_to_airflow_s_retries(
        self, context: Context, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_MEDICAL_IMAGING", "http://127.0.0.1:9")
        with pytest.raises(EndpointConnectionError):
            operator(botocore_config={"retries": {"total_max_attempts": 1}}).execute(context)
        assert store[JOB_KEY]["job_id"] is None
