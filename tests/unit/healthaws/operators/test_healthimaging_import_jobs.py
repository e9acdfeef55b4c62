from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from botocore.exceptions import ClientError

from healthaws.exceptions import (
    JobConflictError,
    JobFailedError,
    JobFinallyFailedError,
    JobUnfinishedError,
    UnknownJobStatusError,
)
from healthaws.jobs import ImportJob
from healthaws.operators.healthimaging_import_jobs import JOB_KEY, HealthImagingStartDicomImportJobOperator
from healthaws.triggers.healthimaging import HealthImagingDicomImportJobCompletedTrigger
from healthaws.triggers.pause import PauseTrigger
from tests.unit.healthaws.script import (
    FAILED_EVENT,
    KEY,
    PATIENCE,
    Script,
    awaited_job,
    deferred,
    operator,
    remember,
    resume,
)
from tests.unit.healthaws.service import (
    DATASTORE,
    INPUT,
    JOB,
    NEXT_JOB,
    OUTPUT,
    ROLE,
    WHERE,
    job_properties,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from tests.unit.healthaws.conftest import Store, TaskInstance


class TestOneJobForOnePieceOfWork:
    def test_first_try_starts_and_remembers(self, context: Context, store: Store) -> None:
        task = operator()
        with Script(task).start():
            assert awaited_job(deferred(task, context)) == JOB
        assert store.history == [
            {"idempotency_key": KEY, "generation": 0, "job_id": None},
            {"idempotency_key": KEY, "generation": 0, "job_id": JOB},
        ]

    @pytest.mark.parametrize("status", ["SUBMITTED", "IN_PROGRESS"])
    def test_retry_reconnects_to_a_running_job(self, status: str, context: Context, store: Store) -> None:
        task = operator()
        remember(store, JOB)
        with Script(task).get(status):
            assert awaited_job(deferred(task, context)) == JOB

    @pytest.mark.parametrize("mode", [{"deferrable": True}, {"deferrable": False}, {"wait_for_completion": False}])
    def test_retry_and_clearing_return_a_finished_job(
        self, mode: dict[str, bool], context: Context, store: Store
    ) -> None:
        task = operator(**mode)
        remember(store, JOB)
        with Script(task).get("COMPLETED"):
            assert task.execute(context) == JOB

    def test_retry_after_failed_starts_the_next_generation(self, context: Context, store: Store) -> None:
        task = operator()
        remember(store, JOB)
        with Script(task).get("FAILED").start(NEXT_JOB, generation=1):
            assert awaited_job(deferred(task, context)) == NEXT_JOB
        assert store.history[1:] == [
            {"idempotency_key": KEY, "generation": 1, "job_id": None},
            {"idempotency_key": KEY, "generation": 1, "job_id": NEXT_JOB},
        ]

    @pytest.mark.parametrize("generation", [0, 1])
    def test_death_between_start_and_note_repeats_the_token(
        self, generation: int, context: Context, store: Store
    ) -> None:
        task = operator()
        if generation:
            remember(store, JOB)
        first = Script(task)
        if generation:
            first.get("FAILED")
        with first.start("InternalServerException", generation=generation), pytest.raises(ClientError):
            task.execute(context)
        with Script(task).start(NEXT_JOB, generation=generation):
            assert awaited_job(deferred(task, context)) == NEXT_JOB

    def test_other_work_under_the_same_task_makes_another_job(self, context: Context, store: Store) -> None:
        task = operator(idempotency_key="batch-2")
        remember(store, JOB, generation=1)
        with Script(task).start(NEXT_JOB, generation=0, key="batch-2"):
            assert awaited_job(deferred(task, context)) == NEXT_JOB

    def test_stored_job_that_the_service_does_not_know_is_no_reason_to_import_again(
        self, context: Context, store: Store
    ) -> None:
        task = operator()
        remember(store, JOB)
        with Script(task).get("ResourceNotFoundException"), pytest.raises(AirflowFailException, match="because"):
            task.execute(context)


class TestTokenConflict:
    """A token that has made a job already, and is refused as the job's parameters were changed meanwhile."""

    OTHER_ROLE = "arn:aws:iam::123456789012:role/other"

    def script(self, task: Any, name: str, **properties: Any) -> Script:
        summary = {"jobId": JOB, "jobName": name, "jobStatus": "IN_PROGRESS", "datastoreId": DATASTORE}
        listed = {"jobSummaries": [summary | {"jobId": NEXT_JOB, "jobName": "night.other"}, summary]}
        script = Script(task).start("ConflictException")
        script.answer("list_dicom_import_jobs", {"datastoreId": DATASTORE}, listed)
        if name == ImportJob(KEY, 0).named("dag.import"):
            reply = {"jobProperties": job_properties("IN_PROGRESS", JOB, jobName=name) | properties}
            script.answer("get_dicom_import_job", WHERE, reply)
        return script

    def test_finds_the_job_by_its_name_and_says_what_differs(
        self, context: Context, store: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        task = operator()
        name, folder = ImportJob(KEY, 0).named("dag.import"), f"s3://elsewhere/{DATASTORE}-DicomImport-{JOB}/"
        with self.script(task, name, dataAccessRoleArn=self.OTHER_ROLE, outputS3Uri=folder):
            assert awaited_job(deferred(task, context)) == JOB
        assert store[JOB_KEY] == {"idempotency_key": KEY, "generation": 0, "job_id": JOB}
        said = capsys.readouterr().out
        assert f"{JOB}, which an earlier try started." in said
        assert "differs from the present parameters in: dataAccessRoleArn, output." in said
        assert "elsewhere" not in said

    @pytest.mark.parametrize(
        "other",
        [{"inputS3Uri": "s3://in/b/"}, {"inputS3Uri": "s3://in/a/deeper/"}, {"datastoreId": "e" * 32}],
        ids=["prefix", "deeper", "store"],
    )
    def test_takes_up_no_job_with_another_input_or_data_store(self, other: dict[str, str], context: Context) -> None:
        task = operator()
        script = self.script(task, ImportJob(KEY, 0).named("dag.import"), **other).store("ACTIVE")
        with script, pytest.raises(JobConflictError, match="change them back, or raise generation for a new job"):
            task.execute(context)

    @pytest.mark.parametrize("other", [ImportJob(KEY, 1), ImportJob("batch-2", 0)], ids=["generation", "work"])
    def test_takes_up_no_job_of_another_generation_or_other_work(self, other: ImportJob, context: Context) -> None:
        task = operator()
        script = self.script(task, other.named("dag.import")).store("ACTIVE")
        with script, pytest.raises(JobConflictError, match=ImportJob(KEY, 0).named("dag.import")):
            task.execute(context)

    def test_of_a_data_store_that_is_being_made_is_waited_out(self, context: Context) -> None:
        task = operator(**PATIENCE)
        script = self.script(task, "night.other").store("CREATING").store("CREATING").start()
        with script, pytest.raises(TaskDeferred) as caught:
            resume(task, context, deferred(task, context))
        assert awaited_job(caught.value) == JOB


class Nightly(HealthImagingStartDicomImportJobOperator):
    """Starts no job before a time."""

    opening = datetime(2100, 1, 1, tzinfo=UTC)

    def starts_at(self, now: datetime) -> datetime:
        return max(now, self.opening)


class TestTimeToStart:
    def test_before_it_nothing_is_started_nor_noted(self, context: Context, store: Store) -> None:
        task = operator(Nightly)
        with Script(task), pytest.raises(TaskDeferred) as paused:
            task.execute(context)
        assert isinstance(paused.value.trigger, PauseTrigger)
        assert paused.value.trigger.until == Nightly.opening.timestamp()
        assert paused.value.timeout is None
        assert store.history == []

    def test_when_it_has_come_the_job_is_started(self, context: Context) -> None:
        task = operator(Nightly)
        with Script(task), pytest.raises(TaskDeferred) as paused:
            task.execute(context)
        task.opening = datetime.now(UTC)
        with Script(task).start(), pytest.raises(TaskDeferred) as awaited:
            getattr(task, paused.value.method_name)(context, paused.value.trigger.event)
        assert awaited_job(awaited.value) == JOB

    def test_a_trigger_that_fires_too_late_waits_for_the_next_time(self, context: Context) -> None:
        task = operator(Nightly)
        with Script(task), pytest.raises(TaskDeferred) as again:
            task.take_up(context, {})
        assert isinstance(again.value.trigger, PauseTrigger)

    @pytest.mark.parametrize("status", ["SUBMITTED", "IN_PROGRESS"])
    def test_a_running_job_is_awaited_all_the_same(self, status: str, context: Context, store: Store) -> None:
        task = operator(Nightly)
        remember(store, JOB)
        with Script(task).get(status):
            assert awaited_job(deferred(task, context)) == JOB

    def test_a_failed_one_is_replaced_when_the_time_has_come(self, context: Context, store: Store) -> None:
        task = operator(Nightly)
        remember(store, JOB)
        with Script(task).get("FAILED"), pytest.raises(TaskDeferred) as paused:
            task.execute(context)
        assert isinstance(paused.value.trigger, PauseTrigger)
        task.opening = datetime.now(UTC)
        with Script(task).get("FAILED").start(NEXT_JOB, generation=1):
            assert awaited_job(deferred(task, context)) == NEXT_JOB

    def test_in_the_worker_it_is_waited_for_too(self, context: Context) -> None:
        task = operator(Nightly, deferrable=False, wait_for_completion=False)
        task.opening = datetime.now(UTC) + timedelta(seconds=0.2)
        with Script(task).start():
            assert task.execute(context) == JOB
        assert datetime.now(UTC) >= task.opening


class TestGeneration:
    @pytest.mark.parametrize("generation", [2, "2", " 2 "])
    def test_raised_generation_asks_for_a_new_job(self, generation: int | str, context: Context, store: Store) -> None:
        task = operator(generation=generation)
        remember(store, JOB, generation=1)
        with Script(task).start(NEXT_JOB, generation=2):
            assert awaited_job(deferred(task, context)) == NEXT_JOB

    def test_a_generation_that_retries_have_passed_is_not_a_new_request(self, context: Context, store: Store) -> None:
        task = operator(generation=1)
        remember(store, JOB, generation=2)
        with Script(task).get("COMPLETED"):
            assert task.execute(context) == JOB

    @pytest.mark.parametrize("generation", ["one", "-1", "", "1.5"])
    def test_must_be_a_whole_number(self, generation: str, context: Context) -> None:
        with pytest.raises(AirflowFailException, match=f"generation must be a whole number.*'{generation}'"):
            operator(generation=generation).execute(context)


class TestFailedJob:
    def test_fails_the_try_so_that_a_retry_starts_another(self, context: Context, store: Store) -> None:
        task = operator()
        remember(store, JOB)
        with (
            Script(task).get("FAILED"),
            pytest.raises(JobFailedError, match=f"{JOB}.*FAILED: why") as caught,
        ):
            task.execute_complete(context, FAILED_EVENT)
        assert not isinstance(caught.value, AirflowFailException)

    @pytest.mark.parametrize("generation", [0, 5])
    def test_last_generation_fails_at_once(self, generation: int, context: Context, store: Store) -> None:
        task = operator(generation=generation)
        remember(store, JOB, generation=generation + 2)
        with (
            Script(task).get("FAILED"),
            pytest.raises(JobFinallyFailedError, match=r"FAILED: why.*clear the task") as caught,
        ):
            task.execute_complete(context, FAILED_EVENT)
        assert isinstance(caught.value, AirflowFailException)

    def test_retry_that_finds_the_last_generation_failed_starts_nothing(self, context: Context, store: Store) -> None:
        task = operator(max_generations=1)
        remember(store, JOB)
        with Script(task).get("FAILED"), pytest.raises(JobFinallyFailedError):
            task.execute(context)

    def test_person_who_clears_the_finally_failed_task_gets_one_more_job(self, context: Context, store: Store) -> None:
        task = operator(max_generations=1)
        remember(store, JOB)
        with Script(task).get("FAILED"), pytest.raises(JobFinallyFailedError):
            task.execute_complete(context, FAILED_EVENT)
        with Script(task).start(NEXT_JOB, generation=1):
            assert awaited_job(deferred(task, context)) == NEXT_JOB

    def test_without_a_note_of_the_job_the_try_fails_all_the_same(self, context: Context) -> None:
        task = operator()
        with Script(task).get("FAILED"), pytest.raises(JobFailedError):
            task.execute_complete(context, FAILED_EVENT)


class TestDeferrable:
    def test_trigger_has_the_settings_of_the_operator(self, context: Context) -> None:
        task = operator(
            waiter_delay=20,
            waiter_max_attempts=9,
            backoff_timeout=100,
            verify=False,
            botocore_config={"read_timeout": 5},
        )
        with Script(task).start():
            deferral = deferred(task, context)
        trigger = deferral.trigger
        assert isinstance(trigger, HealthImagingDicomImportJobCompletedTrigger)
        assert (trigger.waiter_delay, trigger.attempts) == (20, 9)
        assert (trigger.region_name, trigger.verify, trigger.botocore_config) == (
            "us-east-1",
            False,
            {"read_timeout": 5},
        )
        assert trigger.aws_conn_id is None
        assert deferral.timeout == timedelta(seconds=20 * 9 + 100)

    def test_success_event_returns_the_job_id(self, context: Context) -> None:
        task = operator()
        with Script(task).get("COMPLETED"):
            assert task.execute_complete(context, {"status": "success", "job_id": JOB}) == JOB

    def test_job_that_outlives_the_wait_is_reported_as_such(self, context: Context) -> None:
        task = operator()
        event = {"status": "error", "message": "max attempts reached", "job_id": JOB}
        with (
            Script(task).get("IN_PROGRESS"),
            pytest.raises(JobUnfinishedError, match=f"{JOB}.*IN_PROGRESS.*max attempts") as caught,
        ):
            task.execute_complete(context, event)
        assert not isinstance(caught.value, AirflowFailException)

    def test_unknown_status(self, context: Context) -> None:
        task = operator()
        event = {"status": "error", "message": "terminal failure", "job_id": JOB}
        with Script(task).get("CANCELLED"), pytest.raises(UnknownJobStatusError, match="'CANCELLED'"):
            task.execute_complete(context, event)

    def test_event_is_required(self, context: Context) -> None:
        with pytest.raises(AirflowException, match="event is None"):
            operator().execute_complete(context, None)


class TestOtherModes:
    def test_wait_in_the_worker(self, context: Context) -> None:
        task = operator(deferrable=False)
        with Script(task).start().get("SUBMITTED").get("IN_PROGRESS").get("COMPLETED"):
            assert task.execute(context) == JOB

    def test_wait_in_the_worker_ends_with_the_attempts(self, context: Context) -> None:
        task = operator(deferrable=False, waiter_max_attempts=2)
        with (
            Script(task).start().get("SUBMITTED").get("IN_PROGRESS"),
            pytest.raises(JobUnfinishedError, match="2 polls are used up"),
        ):
            task.execute(context)

    @pytest.mark.parametrize(
        ("status", "error"),
        [("FAILED", JobFailedError), ("CANCELLED", UnknownJobStatusError)],
    )
    def test_wait_in_the_worker_for_a_bad_end(self, status: str, error: type[Exception], context: Context) -> None:
        task = operator(deferrable=False)
        with Script(task).start().get(status), pytest.raises(error, match=JOB):
            task.execute(context)

    def test_fire_and_forget(self, context: Context) -> None:
        task = operator(deferrable=False, wait_for_completion=False)
        with Script(task).start():
            assert task.execute(context) == JOB


class TestJobName:
    @pytest.fixture
    def sent(self, context: Context, ti: TaskInstance, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        def name(**more: Any) -> str:
            task = operator(deferrable=False, wait_for_completion=False, **more)
            starts: list[dict[str, Any]] = []
            task.hook.start_dicom_import_job = lambda **request: starts.append(request) or JOB  # type: ignore[method-assign, func-returns-value]
            task.execute(context)
            return str(starts[0]["job_name"])

        return name

    def test_default_names_the_mapped_task(self, sent: Callable[..., str], ti: TaskInstance) -> None:
        ti.dag_id, ti.task_id, ti.map_index = "night", "stages.import", 7
        assert sent() == f"night.stages.import.7.{ImportJob(KEY, 0).client_token[:8]}"

    @pytest.mark.parametrize(
        ("given", "legal"),
        [
            ("scheduled__2026-11-01T00:00:00+00:00", "scheduled__2026-11-01T00-00-00-00-00"),
            ("Köln #1/a", "K-ln-#1/a"),
            ("x" * 70, "x" * 55),
        ],
    )
    def test_what_the_service_does_not_allow_is_replaced(
        self, given: str, legal: str, sent: Callable[..., str]
    ) -> None:
        assert sent(job_name=given) == f"{legal}.{ImportJob(KEY, 0).client_token[:8]}"


class TestDefaultKey:
    def test_is_the_same_for_each_try_and_tells_no_path(self, context: Context) -> None:
        key = operator(idempotency_key=None).work_key(context)
        assert key == operator(idempotency_key=None).work_key(context)
        assert key.startswith("dag|scheduled__2026-11-01T00:00:00+00:00|import|-1|")
        assert "s3://" not in key

    @pytest.mark.parametrize("part", ["dag_id", "run_id", "task_id", "map_index"])
    def test_differs_between_task_instances(self, part: str, context: Context, ti: TaskInstance) -> None:
        before = operator(idempotency_key=None).work_key(context)
        setattr(ti, part, 1)
        assert operator(idempotency_key=None).work_key(context) != before

    def test_differs_when_the_task_gets_another_input(self, context: Context) -> None:
        keys = {operator(idempotency_key=None, input_s3_uri=uri).work_key(context) for uri in (INPUT, "s3://in/b/")}
        assert len(keys) == 2


class TestLink:
    def test_is_stored_once_the_job_is_known(self, context: Context, ti: TaskInstance) -> None:
        task = operator()
        with Script(task).start():
            deferred(task, context)
        assert ti.xcoms == {
            "healthimaging_dicom_import_job": {
                "region_name": "us-east-1",
                "aws_domain": "aws.amazon.com",
                "datastore_id": DATASTORE,
                "job_id": JOB,
            }
        }


class Subclass(HealthImagingStartDicomImportJobOperator):
    """Keeps its jobs elsewhere, returns properties, and takes FAILED for a result."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.jobs: list[ImportJob] = []

    def load_job(self, context: Context) -> ImportJob | None:
        return self.jobs[-1] if self.jobs else None

    def save_job(self, context: Context, job: ImportJob) -> None:
        self.jobs.append(job)

    def complete(self, context: Context, properties: dict[str, Any]) -> str:
        return self.hook.output_folder(properties)

    def job_failed(self, context: Context, properties: dict[str, Any]) -> str:
        return str(properties["jobStatus"])


class TestSubclass:
    @pytest.mark.parametrize(
        ("status", "result"), [("COMPLETED", f"{OUTPUT}{DATASTORE}-DicomImport-{JOB}/"), ("FAILED", "FAILED")]
    )
    def test_may_change_the_store_and_the_result(
        self, status: str, result: str, context: Context, store: Store
    ) -> None:
        plain = operator()
        task = Subclass(**{name: getattr(plain, name) for name in (*plain.template_fields, "task_id", "deferrable")})
        with Script(task).start().get(status):
            assert awaited_job(deferred(task, context)) == JOB
            assert task.execute_complete(context, {"status": "success", "job_id": JOB}) == result
        assert [job.job_id for job in task.jobs] == [None, JOB]
        assert store == {}


def test_template_fields_are_attributes() -> None:
    task = operator()
    assert {"generation", "idempotency_key", "input_s3_uri", "job_name", "region_name"} <= set(task.template_fields)
    for name in task.template_fields:
        assert hasattr(task, name)


def test_can_be_mapped_with_default_arguments() -> None:
    mapped = HealthImagingStartDicomImportJobOperator.partial(
        task_id="import", datastore_id=DATASTORE, data_access_role_arn=ROLE, output_s3_uri=OUTPUT, backoff_timeout=60
    ).expand(input_s3_uri=[INPUT, "s3://in/b/"])
    assert mapped.operator_class is HealthImagingStartDicomImportJobOperator


class TestOnKill:
    @pytest.mark.parametrize("started", [True, False])
    def test_only_leaves_a_trace(
        self, started: bool, context: Context, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        task = operator()
        if started:
            with Script(task).start():
                deferred(task, context)
        task.on_kill()
        assert (f"{JOB} goes on" in caplog.text + capsys.readouterr().out) is started
