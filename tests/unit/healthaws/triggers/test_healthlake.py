from __future__ import annotations

import asyncio
from typing import Any

import pytest

from healthaws.hooks.healthlake import HealthLakeHook
from healthaws.triggers.healthlake import (
    HealthLakeDataTransformationJobCompletedTrigger,
    HealthLakeFhirExportJobCompletedTrigger,
    HealthLakeFhirImportJobCompletedTrigger,
    HealthLakeJobCompletedTrigger,
)
from tests.unit.healthaws.healthlake import ENDED_BADLY, EXPORTS, IMPORTS, STORE, TRANSFORMATIONS, Jobs
from tests.unit.healthaws.service import JOB, ScriptedService, scripted_service

KINDS = pytest.mark.parametrize(
    ("kind", "jobs"),
    [
        (HealthLakeFhirImportJobCompletedTrigger, IMPORTS),
        (HealthLakeFhirExportJobCompletedTrigger, EXPORTS),
        (HealthLakeDataTransformationJobCompletedTrigger, TRANSFORMATIONS),
    ],
)
IMPORT = HealthLakeFhirImportJobCompletedTrigger
ONE_TRY_ONE_HOST = {"retries": {"total_max_attempts": 1}, "inject_host_prefix": False}


def trigger(
    kind: type[HealthLakeJobCompletedTrigger] = IMPORT, jobs: Jobs = IMPORTS, **more: Any
) -> HealthLakeJobCompletedTrigger:
    where = {"datastore_id": STORE} if jobs.where else {}
    given = {"job_id": JOB, "waiter_delay": 0, "waiter_max_attempts": 3, "queued_max_attempts": 3, "aws_conn_id": None}
    return kind(**{**where, **given, **more})


def run(
    service: ScriptedService, monkeypatch: pytest.MonkeyPatch, waits: HealthLakeJobCompletedTrigger | None = None
) -> dict[str, Any]:
    """Run the trigger over real aiobotocore, as the triggerer would after a round trip through the database."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_HEALTHLAKE", service.url)
    waits = waits or trigger()
    waits.botocore_config = ONE_TRY_ONE_HOST
    _, kwargs = waits.serialize()

    async def first_event() -> dict[str, Any]:
        payload: dict[str, Any] = (await anext(type(waits)(**kwargs).run())).payload
        return payload

    return asyncio.run(first_event())


def says(*statuses: str, jobs: Jobs = IMPORTS) -> list[dict[str, Any] | str]:
    return [{jobs.member: jobs.properties(status)} for status in statuses]


class TestSerialize:
    @KINDS
    def test_round_trip(self, kind: type[HealthLakeJobCompletedTrigger], jobs: Jobs) -> None:
        path, kwargs = trigger(kind, jobs, region_name="eu-west-1", verify=False, queued_max_attempts=9).serialize()
        assert path == f"healthaws.triggers.healthlake.{kind.__name__}"
        assert kind(**kwargs).serialize() == (path, kwargs)
        assert (kwargs["region_name"], kwargs["verify"], kwargs["queued_max_attempts"]) == ("eu-west-1", False, 9)

    def test_hook_has_the_settings_of_the_operator(self) -> None:
        hook = trigger(region_name="eu-west-1", botocore_config={"read_timeout": 5}).hook()
        assert isinstance(hook, HealthLakeHook)
        assert (hook.conn_region_name, hook.conn.meta.config.read_timeout) == ("eu-west-1", 5)


class TestRun:
    @KINDS
    def test_waits_through_the_queue_and_the_work(
        self, kind: type[HealthLakeJobCompletedTrigger], jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script = says("SUBMITTED", "QUEUED", "IN_PROGRESS", "IN_PROGRESS", "COMPLETED", jobs=jobs)
        with scripted_service(*script) as service:
            assert run(service, monkeypatch, trigger(kind, jobs)) == {"status": "success", "job_id": JOB}
        assert [body for _, body in service.requests] == [{**jobs.where, "JobId": JOB}] * 5

    @pytest.mark.parametrize("status", ENDED_BADLY)
    def test_other_ends_are_left_to_the_operator(self, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service(*says(status, status)) as service:
            event = run(service, monkeypatch)
        assert (event["status"], event["job_id"]) == ("error", JOB)
        assert status in event["message"]

    def test_queue_has_its_own_attempts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        script = says(*["QUEUED"] * 8, "IN_PROGRESS", "IN_PROGRESS", "COMPLETED")
        with scripted_service(*script) as service:
            event = run(service, monkeypatch, trigger(queued_max_attempts=9, waiter_max_attempts=2))
        assert event["status"] == "success"

    def test_queue_that_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service(*says("QUEUED", "QUEUED")) as service:
            event = run(service, monkeypatch, trigger(queued_max_attempts=2))
        assert event["status"] == "error"
        assert len(service.requests) == 2

    def test_work_that_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service(*says("IN_PROGRESS", "IN_PROGRESS", "IN_PROGRESS")) as service:
            event = run(service, monkeypatch, trigger(waiter_max_attempts=2))
        assert (event["status"], event["message"]) == ("error", "Waiter error: max attempts reached")

    def test_refused_polls_back_off_and_use_up_no_attempt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        script = [*["ThrottlingException"] * 3, *says("QUEUED", "IN_PROGRESS"), "ThrottlingException"]
        with scripted_service(*script, *says("COMPLETED")) as service:
            waits = trigger(queued_max_attempts=2, waiter_max_attempts=1)
            assert run(service, monkeypatch, waits)["status"] == "success"

    def test_rejected_poll_ends_the_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with scripted_service("ResourceNotFoundException") as service:
            event = run(service, monkeypatch)
        assert event["status"] == "error"
        assert "ResourceNotFoundException" in event["message"]


def test_on_kill_leaves_a_trace_only(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(trigger().on_kill())
    assert "HealthLake cannot cancel jobs" in caplog.text + capsys.readouterr().out
