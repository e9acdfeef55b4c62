from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from healthaws.hooks.healthimaging import HealthImagingHook
from healthaws.triggers.healthimaging import HealthImagingDicomImportJobCompletedTrigger
from tests.unit.healthaws.service import DATASTORE, JOB, ScriptedService, get_reply, scripted_service


def trigger(**more: Any) -> HealthImagingDicomImportJobCompletedTrigger:
    given: dict[str, Any] = {
        "datastore_id": DATASTORE,
        "job_id": JOB,
        "waiter_delay": 0,
        "waiter_max_attempts": 3,
        "aws_conn_id": None,
    }
    return HealthImagingDicomImportJobCompletedTrigger(**given | more)


def run(service: ScriptedService, monkeypatch: pytest.MonkeyPatch, **more: Any) -> dict[str, Any]:
    """Run the trigger over real aiobotocore, as the triggerer would after a round trip through the database."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_MEDICAL_IMAGING", service.url)
    _, kwargs = trigger(botocore_config={"retries": {"total_max_attempts": 1}}, **more).serialize()

    async def first_event() -> dict[str, Any]:
        events = HealthImagingDicomImportJobCompletedTrigger(**kwargs).run()
        payload: dict[str, Any] = (await anext(events)).payload
        return payload

    return asyncio.run(first_event())


class TestSerialize:
    def test_round_trip(self) -> None:
        path, kwargs = trigger(region_name="eu-west-1", verify=False, botocore_config={"read_timeout": 5}).serialize()
        assert path == "healthaws.triggers.healthimaging.HealthImagingDicomImportJobCompletedTrigger"
        assert HealthImagingDicomImportJobCompletedTrigger(**kwargs).serialize() == (path, kwargs)
        assert kwargs["region_name"] == "eu-west-1"
        assert kwargs["verify"] is False
        assert kwargs["botocore_config"] == {"read_timeout": 5}

    def test_hook_has_the_settings_of_the_operator(self) -> None:
        hook = trigger(region_name="eu-west-1", verify=False, botocore_config={"read_timeout": 5}).hook()
        assert isinstance(hook, HealthImagingHook)
        assert hook.conn_region_name == "eu-west-1"
        assert hook.verify is False
        assert hook.conn.meta.config.read_timeout == 5


class TestRun:
    def test_completed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service(get_reply("SUBMITTED"), get_reply("IN_PROGRESS"), get_reply("COMPLETED")) as service:
            assert run(service, monkeypatch) == {"status": "success", "job_id": JOB}
        assert {path for path, _ in service.requests} == {f"/getDICOMImportJob/datastore/{DATASTORE}/job/{JOB}"}

    def test_failed_leaves_the_service_s_message_to_the_operator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service(get_reply("FAILED", message="bucket is gone")) as service:
            event = run(service, monkeypatch)
        assert (event["status"], event["job_id"]) == ("error", JOB)
        assert "bucket is gone" not in event["message"]  # may name an object, and the triggerer logs its events

    def test_unknown_status_ends_the_wait_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service(get_reply("CANCELLED")) as service:
            event = run(service, monkeypatch)
        assert event["status"] == "error"
        assert "CANCELLED" in event["message"]

    def test_reply_that_broke_off_is_asked_for_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service({}, get_reply("COMPLETED")) as service:
            assert run(service, monkeypatch)["status"] == "success"

    def test_attempts_used_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service(*[get_reply("IN_PROGRESS")] * 3) as service:
            event = run(service, monkeypatch)
        assert (event["status"], event["message"]) == ("error", "Waiter error: max attempts reached")

    @pytest.mark.parametrize("refusal", ["ThrottlingException", "ServiceQuotaExceededException"])
    def test_refused_polls_back_off_and_use_up_no_attempt(self, refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service(*[refusal] * 4, get_reply("COMPLETED")) as service:
            event = run(service, monkeypatch, waiter_max_attempts=1)
        assert event["status"] == "success"
        assert len(service.requests) == 5

    def test_pauses_grow_from_the_waiter_delay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        started = time.monotonic()
        with scripted_service("ServiceQuotaExceededException", get_reply("COMPLETED")) as service:
            run(service, monkeypatch, waiter_delay=1)
        assert time.monotonic() - started >= 0.5

    def test_rejected_poll_ends_the_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service("AccessDeniedException") as service:
            event = run(service, monkeypatch)
        assert event["status"] == "error"
        assert "AccessDeniedException" in event["message"]


def test_on_kill_leaves_a_trace_only(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(trigger().on_kill())
    assert "HealthImaging cannot cancel jobs" in caplog.text + capsys.readouterr().out
