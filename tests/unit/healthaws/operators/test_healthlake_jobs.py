"""What HealthLake's jobs have of their own; what all jobs share is tested with HealthImaging's."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from healthaws.exceptions import (
    JobCancelledError,
    JobCompletedWithErrorsError,
    JobFailedError,
    JobUnfinishedError,
    ProfileVersionError,
    UnknownJobStatusError,
)
from healthaws.jobs import ImportJob
from healthaws.operators.healthlake_import_jobs import HealthLakeStartFhirImportJobOperator
from healthaws.triggers.healthlake import HealthLakeFhirImportJobCompletedTrigger
from tests.unit.healthaws.healthlake import (
    EXPORTS,
    IMPORTS,
    STORE,
    TRANSFORMATIONS,
    Jobs,
    JobScript,
    export_operator,
    import_operator,
    transformation_operator,
)
from tests.unit.healthaws.script import KEY, awaited_job, deferred, pause, remember, resume
from tests.unit.healthaws.service import INPUT, JOB, NEXT_JOB, OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from tests.unit.healthaws.conftest import Store, TaskInstance

IMPORT_KEY = HealthLakeStartFhirImportJobOperator.job_key
SUCCESS = {"status": "success", "job_id": JOB}
ERROR = {"status": "error", "message": "the trigger's message", "job_id": JOB}

KINDS = pytest.mark.parametrize(
    ("make", "jobs"),
    [(import_operator, IMPORTS), (export_operator, EXPORTS), (transformation_operator, TRANSFORMATIONS)],
    ids=["import", "export", "transformation"],
)


@KINDS
class TestEveryKind:
    def test_starts_one_job_and_remembers_it(
        self, make: Callable[..., Any], jobs: Jobs, context: Context, store: Store
    ) -> None:
        task = make()
        with JobScript(task, jobs).start():
            assert awaited_job(deferred(task, context)) == JOB
        assert [job["job_id"] for job in store.history] == [None, JOB]

    def test_retry_reconnects_however_long_the_job_is_queued(
        self, make: Callable[..., Any], jobs: Jobs, context: Context, store: Store
    ) -> None:
        task = make()
        remember(store, JOB, under=task.job_key)
        with JobScript(task, jobs).describe("QUEUED"):
            assert awaited_job(deferred(task, context)) == JOB

    def test_returns_job_and_status(self, make: Callable[..., Any], jobs: Jobs, context: Context) -> None:
        task = make()
        with JobScript(task, jobs).describe("COMPLETED"):
            assert task.execute_complete(context, SUCCESS) == {"job_id": JOB, "status": "COMPLETED"}

    def test_retry_after_failed_starts_the_next_generation(
        self, make: Callable[..., Any], jobs: Jobs, context: Context, store: Store
    ) -> None:
        task = make()
        remember(store, JOB, under=task.job_key)
        script = JobScript(task, jobs).describe("FAILED").describe("FAILED").start(NEXT_JOB, generation=1)
        with script:
            with pytest.raises(JobFailedError, match=rf"{JOB}.*FAILED: why") as caught:
                task.execute_complete(context, ERROR)
            assert awaited_job(deferred(task, context)) == NEXT_JOB
        assert not isinstance(caught.value, AirflowFailException)

    def test_template_fields_are_attributes(self, make: Callable[..., Any], jobs: Jobs) -> None:
        task = make()
        assert {"kms_key_id", "idempotency_key", "generation"} <= set(task.template_fields)
        assert all(hasattr(task, name) for name in task.template_fields)


class TestCompletedWithErrors:
    def test_is_no_success(self, context: Context) -> None:
        task = import_operator()
        with (
            JobScript(task).describe("COMPLETED_WITH_ERRORS"),
            pytest.raises(JobCompletedWithErrorsError, match=rf"{JOB}.*{STORE}.*COMPLETED_WITH_ERRORS") as caught,
        ):
            task.execute_complete(context, ERROR)
        assert isinstance(caught.value, AirflowFailException)

    def test_is_found_again_by_a_later_try_and_never_imported_twice(self, context: Context, store: Store) -> None:
        task = import_operator()
        remember(store, JOB, under=IMPORT_KEY)
        with JobScript(task).describe("COMPLETED_WITH_ERRORS"), pytest.raises(JobCompletedWithErrorsError):
            task.execute(context)

    def test_may_be_returned_to_what_follows(self, context: Context) -> None:
        task = import_operator(completed_with_errors="return")
        with JobScript(task).describe("COMPLETED_WITH_ERRORS"):
            result = task.execute_complete(context, ERROR)
        assert result == {"job_id": JOB, "status": "COMPLETED_WITH_ERRORS"}

    def test_setting_is_one_of_two(self) -> None:
        with pytest.raises(ValueError, match='"fail" or "return", not \'ignore\''):
            import_operator(completed_with_errors="ignore")

    def test_counts_are_logged(
        self, context: Context, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        task = import_operator(completed_with_errors="return")
        progress = {"TotalNumberOfResourcesWithCustomerError": 7}
        with JobScript(task).describe("COMPLETED_WITH_ERRORS", JobProgressReport=progress):
            task.execute_complete(context, ERROR)
        assert "'TotalNumberOfResourcesWithCustomerError': 7" in caplog.text + capsys.readouterr().out


class TestCancelled:
    @pytest.mark.parametrize("status", ["CANCEL_COMPLETED", "CANCEL_FAILED"])
    def test_ends_the_wait_and_starts_nothing(self, status: str, context: Context, store: Store) -> None:
        task = import_operator()
        remember(store, JOB, under=IMPORT_KEY)
        with (
            JobScript(task).describe(status),
            pytest.raises(JobCancelledError, match=rf"{status}: why.*generation") as caught,
        ):
            task.execute_complete(context, ERROR)
        assert isinstance(caught.value, AirflowFailException)
        with JobScript(task).describe(status), pytest.raises(JobCancelledError):
            task.execute(context)

    def test_raised_generation_starts_another(self, context: Context, store: Store) -> None:
        task = import_operator(generation=1)
        remember(store, JOB, under=IMPORT_KEY)
        with JobScript(task).start(NEXT_JOB, generation=1):
            assert awaited_job(deferred(task, context)) == NEXT_JOB

    @pytest.mark.parametrize("status", ["CANCEL_SUBMITTED", "CANCEL_IN_PROGRESS"])
    def test_is_waited_for_while_it_goes_on(self, status: str, context: Context, store: Store) -> None:
        task = import_operator()
        remember(store, JOB, under=IMPORT_KEY)
        with JobScript(task).describe(status):
            assert awaited_job(deferred(task, context)) == JOB

    def test_is_unknown_to_data_transformation(self, context: Context) -> None:
        task = transformation_operator()
        with (
            JobScript(task, TRANSFORMATIONS).describe("CANCEL_COMPLETED"),
            pytest.raises(UnknownJobStatusError, match=r"'CANCEL_COMPLETED'.*not one of COMPLETED"),
        ):
            task.execute_complete(context, ERROR)


class TestQueue:
    def test_time_in_the_queue_comes_on_top_of_the_time_to_run(self, context: Context) -> None:
        task = import_operator(waiter_delay=60, waiter_max_attempts=10, queued_timeout=7200, backoff_timeout=100)
        with JobScript(task).start():
            deferral = deferred(task, context)
        trigger = deferral.trigger
        assert isinstance(trigger, HealthLakeFhirImportJobCompletedTrigger)
        assert (trigger.queued_attempts, trigger.attempts) == (120, 10)
        assert deferral.timeout == timedelta(seconds=60 * 10 + 7200 + 100)

    def test_queue_is_a_day_long_unless_told_otherwise(self) -> None:
        assert import_operator().queued_timeout == 24 * 60 * 60

    def test_queued_polls_use_up_none_of_the_running_ones(self, context: Context) -> None:
        task = import_operator(deferrable=False, queued_timeout=10, waiter_max_attempts=2)
        script = JobScript(task).start().describe("SUBMITTED")
        for _ in range(5):
            script.describe("QUEUED")
        with script.describe("IN_PROGRESS").describe("COMPLETED"):
            assert task.execute(context) == {"job_id": JOB, "status": "COMPLETED"}

    def test_job_that_stays_queued(self, context: Context) -> None:
        task = import_operator(deferrable=False, queued_timeout=3)
        script = JobScript(task).start().describe("SUBMITTED").describe("QUEUED").describe("QUEUED")
        with script, pytest.raises(JobUnfinishedError, match=r"QUEUED.*queued_timeout has passed"):
            task.execute(context)

    def test_job_that_runs_on(self, context: Context) -> None:
        task = import_operator(deferrable=False, waiter_max_attempts=2)
        script = JobScript(task).start().describe("QUEUED").describe("IN_PROGRESS").describe("IN_PROGRESS")
        with script, pytest.raises(JobUnfinishedError, match=r"IN_PROGRESS.*2 polls are used up"):
            task.execute(context)

    def test_job_that_outlives_the_trigger_is_left_to_a_retry(self, context: Context) -> None:
        task = import_operator()
        with (
            JobScript(task).describe("QUEUED"),
            pytest.raises(JobUnfinishedError, match=r"QUEUED.*the trigger's message") as caught,
        ):
            task.execute_complete(context, ERROR)
        assert not isinstance(caught.value, AirflowFailException)


class TestRefusals:
    @pytest.mark.parametrize("refusal", ["ThrottlingException", "ServiceQuotaExceededException"])
    def test_cost_time_and_no_retry(self, refusal: str, context: Context) -> None:
        task = import_operator()
        with JobScript(task).start(refusal).start():
            deferral = deferred(task, context)
            assert pause(deferral).event["refused"]["count"] == 1
            with pytest.raises(TaskDeferred) as caught:
                resume(task, context, deferral)
        assert awaited_job(caught.value) == JOB

    @pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
    def test_role_that_cannot_be_assumed_yet_is_waited_for(self, code: str, context: Context) -> None:
        task = import_operator(backoff_initial_delay=0, backoff_max_delay=0)
        script = JobScript(task).start(code, text="HealthLake cannot assume the role").start()
        with script, pytest.raises(TaskDeferred) as caught:
            resume(task, context, deferred(task, context))
        assert awaited_job(caught.value) == JOB

    @pytest.mark.parametrize("code", ["ValidationException", "ConflictException"])
    @pytest.mark.parametrize("status", ["CREATING", "UPDATING"])
    def test_a_data_store_that_is_being_changed_is_waited_for(self, code: str, status: str, context: Context) -> None:
        task = import_operator(backoff_initial_delay=0, backoff_max_delay=0)
        script = JobScript(task).start(code, text="wait until it is ACTIVE")
        if code == "ConflictException":
            script.named(None).store(status)
        script.store(status).start()
        with script, pytest.raises(TaskDeferred) as caught:
            resume(task, context, deferred(task, context))
        assert awaited_job(caught.value) == JOB

    def test_a_data_store_that_is_changed_for_ever_is_not(self, context: Context) -> None:
        task = import_operator(backoff_timeout=0)
        script = JobScript(task).start("ValidationException")
        with script, pytest.raises(AirflowFailException):
            task.execute(context)

    def test_rejection_fails_at_once_in_the_service_s_words(self, context: Context) -> None:
        task = import_operator()
        script = JobScript(task).start("ValidationException", text="The data store is not ACTIVE").store("DELETING")
        with script, pytest.raises(AirflowFailException, match=r"StartFHIRImportJob .*The data store is not ACTIVE"):
            task.execute(context)

    def test_rejection_of_a_repeated_start_is_told_where_the_jobs_may_not_be_listed(
        self, context: Context, store: Store
    ) -> None:
        task = import_operator()
        remember(store, None, under=task.job_key)
        script = JobScript(task).start("ValidationException", text="The prefix is empty")
        script.named("AccessDeniedException").store("ACTIVE")
        with script, pytest.raises(AirflowFailException, match=r"StartFHIRImportJob .*prefix is empty"):
            task.execute(context)

    @KINDS
    def test_output_without_a_key_is_refused_before_the_start(
        self, make: Callable[..., Any], jobs: Jobs, context: Context
    ) -> None:
        task = make(kms_key_id="")
        with JobScript(task, jobs), pytest.raises(AirflowFailException, match=r"name a KMS key in kms_key_id"):
            task.execute(context)


class TestDataTransformation:
    def test_what_is_given_is_sent(self, context: Context) -> None:
        task = transformation_operator(source_format="CCDA", drift_detection=True, provenance=False)
        given = {
            "InputDataConfig": {"S3Uri": INPUT, "SourceFormat": "CCDA"},
            "DriftDetectionEnabled": True,
            "ProvenanceEnabled": False,
        }
        with JobScript(task, TRANSFORMATIONS).start(**given):
            assert awaited_job(deferred(task, context)) == JOB

    @pytest.mark.parametrize("wanted", [3, "3", " 3 ", None])
    def test_job_that_ran_the_wanted_version_of_the_profile(self, wanted: int | str | None, context: Context) -> None:
        task = transformation_operator(profile_version=wanted)
        with JobScript(task, TRANSFORMATIONS).describe("COMPLETED", ProfileVersion=3):
            assert task.execute_complete(context, SUCCESS)["status"] == "COMPLETED"

    @pytest.mark.parametrize("ran", [{"ProfileVersion": 4}, {}])
    @pytest.mark.parametrize("status", ["COMPLETED", "COMPLETED_WITH_ERRORS"])
    def test_job_that_ran_another_fails_the_task(self, ran: dict[str, int], status: str, context: Context) -> None:
        task = transformation_operator(profile_version=3, completed_with_errors="return")
        with (
            JobScript(task, TRANSFORMATIONS).describe(status, **ran),
            pytest.raises(ProfileVersionError, match=rf"{JOB} .*ran version (4|None) of .*, not 3") as caught,
        ):
            task.execute_complete(context, SUCCESS)
        assert isinstance(caught.value, AirflowFailException)

    def test_failed_job_is_a_failed_job_whatever_it_ran(self, context: Context) -> None:
        task = transformation_operator(profile_version=3)
        with JobScript(task, TRANSFORMATIONS).describe("FAILED", ProfileVersion=4), pytest.raises(JobFailedError):
            task.execute_complete(context, ERROR)

    def test_old_botocore_is_told_as_such(self, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        task = transformation_operator()
        monkeypatch.delattr(type(task.hook.conn), "start_data_transformation_job")
        with pytest.raises(AirflowFailException, match=r"botocore [\d.]+ .*StartDataTransformationJob.*newer"):
            task.execute(context)


class TestJobName:
    @pytest.mark.parametrize(
        ("given", "legal"),
        [
            ("scheduled__2026-11-01T00:00:00+00:00", "scheduled__2026-11-01T00:00:00+00:00"),
            ("Köln #1/a", "Köln -1/a"),
            ("x" * 70, "x" * 55),
        ],
    )
    def test_what_the_service_does_not_allow_is_replaced(self, given: str, legal: str, context: Context) -> None:
        task = import_operator(job_name=given, wait_for_completion=False, deferrable=False)
        with JobScript(task).start(JobName=f"{legal}.{ImportJob(KEY, 0).client_token[:8]}"):
            assert task.execute(context) == JOB


class Subclass(HealthLakeStartFhirImportJobOperator):
    """Keeps its jobs elsewhere, and takes every end for a result."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(completed_with_errors="return", **kwargs)
        self.jobs: list[ImportJob] = []

    def load_job(self, context: Context) -> ImportJob | None:
        return self.jobs[-1] if self.jobs else None

    def save_job(self, context: Context, job: ImportJob) -> None:
        self.jobs.append(job)

    def complete(self, context: Context, properties: dict[str, Any]) -> str:
        return self.hook.output_folder(properties)

    def job_failed(self, context: Context, properties: dict[str, Any]) -> str:
        return str(properties["JobStatus"])

    job_cancelled = job_failed


@pytest.mark.parametrize(
    ("status", "result"),
    [
        ("COMPLETED", f"{OUTPUT}{STORE}-FHIR_IMPORT-{JOB}/"),
        ("COMPLETED_WITH_ERRORS", f"{OUTPUT}{STORE}-FHIR_IMPORT-{JOB}/"),
        ("FAILED", "FAILED"),
        ("CANCEL_COMPLETED", "CANCEL_COMPLETED"),
    ],
)
def test_subclass_may_change_the_store_and_every_result(
    status: str, result: str, context: Context, store: Store
) -> None:
    plain = import_operator()
    task = Subclass(**{name: getattr(plain, name) for name in (*plain.template_fields, "task_id", "deferrable")})
    with JobScript(task).start().describe(status):
        assert awaited_job(deferred(task, context)) == JOB
        assert task.execute_complete(context, SUCCESS) == result
    assert [job.job_id for job in task.jobs] == [None, JOB]
    assert store == {}


def test_default_key_tells_no_path_and_differs_by_input(context: Context) -> None:
    keys = [import_operator(idempotency_key=None, input_s3_uri=uri).work_key(context) for uri in (INPUT, "s3://in/b/")]
    assert len(set(keys)) == 2
    assert not any("s3://" in key for key in keys)


def test_console_link_is_stored_once_the_job_is_known(context: Context, ti: TaskInstance) -> None:
    task = import_operator()
    with JobScript(task).start():
        deferred(task, context)
    assert ti.xcoms["healthlake_console"]["job_id"] == JOB


def test_can_be_mapped() -> None:
    mapped = HealthLakeStartFhirImportJobOperator.partial(
        task_id="import", datastore_id=STORE, data_access_role_arn="r", output_s3_uri=OUTPUT, kms_key_id="k"
    ).expand(input_s3_uri=[INPUT, "s3://in/b/"])
    assert mapped.operator_class is HealthLakeStartFhirImportJobOperator
