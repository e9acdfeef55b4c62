"""What a run takes in, by its params or its data interval."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.executors.executor_constants import CORE_EXECUTOR_NAMES
from airflow.executors.local_executor import LocalExecutor
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airlock.imaging.fhir.publishing import read_publishing
from airlock.pipelines.parts import Staging
from airlock.pipelines.routes import Delivery
from airlock.records import Window
from airlock.storage.s3uri import S3Uri
from airlock_tasks.audit import AuditOperator, PublicationAuditOperator
from airlock_tasks.normalize import FhirNormalizeOperator, PublicationNormalizeOperator
from airlock_tasks.run import CONNECTIONS, RunOperator, connect_s3, is_plan, ledger_url, open_run, run_window
from airlock_tasks.validate import FhirValidateOperator
from healthaws.exceptions import FhirRejectedError, FhirUnavailableError
from tests.chain import DATASTORE, HEALTHLAKE, ROLE, ccda_pipeline, clinical_pipeline, pipeline
from tests.servers.ledger import new_ledger
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START, END = datetime(2026, 11, 23, 2, tzinfo=UTC), datetime(2026, 11, 24, 2, tzinfo=UTC)


def context(run_type: str = "manual", **params: Any) -> Any:
    run = SimpleNamespace(run_type=run_type, data_interval_start=START, data_interval_end=END)
    return {"params": params, "dag_run": run, "run_id": "manual__1"}


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_scheduled_and_backfill_runs_take_their_data_interval(run_type: str) -> None:
    assert run_window(context(run_type)) == Window(START, END)


def test_scheduled_sweep_takes_whatever_is_there_and_a_backfill_its_interval() -> None:
    assert run_window(context("scheduled"), sweep=True) is None
    assert run_window(context("backfill"), sweep=True) == Window(START, END)


def test_scheduled_runs_of_a_pipeline_with_a_queue_are_sweeps(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", new_ledger(tmp_path / "ledger.db"))
    queue = {"queue_url": "https://sqs.eu-central-1.amazonaws.com/123456789012/arrivals"}
    assert open_run(pipeline(), context("scheduled")).window == Window(START, END)
    assert open_run(pipeline(arrivals=queue), context("scheduled")).window is None


@pytest.mark.parametrize("run_type", ["manual", "asset_triggered"])
def test_other_runs_take_whatever_is_there(run_type: str) -> None:
    assert run_window(context(run_type)) is None


def test_window_of_the_form_wins() -> None:
    asked = context("scheduled", window_start="2026-01-01T00:00:00+00:00", window_end="2026-01-02T00:00:00Z")
    assert run_window(asked) == Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"preefix": "in/"}, "unknown params: preefix. Use plan_only, prefix, .*window_end, window_start"),
        ({"window_start": "2026-01-01T00:00:00Z"}, "Give both or neither"),
        ({"window_start": "yesterday", "window_end": "2026-01-02T00:00:00Z"}, "window_start is not a date"),
        ({"window_start": "2026-01-01T00:00:00", "window_end": "2026-01-02T00:00:00Z"}, "no time zone"),
        ({"window_start": "2026-01-02T00:00:00Z", "window_end": "2026-01-01T00:00:00Z"}, "must be before"),
    ],
)
def test_wrong_window_is_explained(params: dict[str, str], sentence: str) -> None:
    with pytest.raises(AirflowFailException, match=sentence):
        run_window(context(**params))


def test_prefix_outside_the_source_fails_at_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", new_ledger(tmp_path / "ledger.db"))
    with pytest.raises(AirflowFailException, match="must be inside the source s3://archive/in/"):
        open_run(pipeline(), context(prefix="elsewhere/"))


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", new_ledger(tmp_path / "ledger.db"))


def _in_region(region: str, monkeypatch: pytest.MonkeyPatch, **publish: str) -> Any:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps({"conn_type": "aws", "extra": {"region_name": region}}))
    store = {"datastore_id": DATASTORE, "data_access_role_arn": ROLE, "output_uri": "s3://output/imports/"}
    return pipeline(healthimaging=store, healthlake=HEALTHLAKE, publish=publish)


@pytest.mark.usefixtures("ledger")
def test_a_run_that_publishes_knows_the_region_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(_in_region("eu-west-1", monkeypatch), context())
    assert "dicom-medical-imaging.eu-west-1." in read_publishing(run.pipeline, run.pipeline.healthlake).dicomweb_url


@pytest.mark.usefixtures("ledger")
def test_a_connection_in_another_region_than_published_endpoints_name_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(AirflowFailException, match=r"publish\.dicomweb_region is 'us-west-2', .* is in 'eu-west-1'"):
        open_run(_in_region("eu-west-1", monkeypatch, dicomweb_region="us-west-2"), context())


@pytest.mark.usefixtures("ledger")
class TestPlan:
    def test_its_datasets_lie_in_a_folder_of_their_own(self) -> None:
        planned, real = (open_run(pipeline(), context(plan_only=asked)) for asked in (True, False))
        assert planned.plan_only
        assert str(planned.workspace.root) == f"{real.workspace.root}plan/"

    @pytest.mark.parametrize("stage", [AuditOperator, PublicationNormalizeOperator, PublicationAuditOperator])
    def test_what_follows_normalize_is_skipped(self, stage: Any) -> None:
        """Audit runs whatever became of the tasks before, so it has to skip itself."""
        task = stage(task_id="stage", pipeline=pipeline())
        with pytest.raises(AirflowSkipException, match="ends after normalize"):
            task.execute(context(plan_only=True))

    def test_of_a_redrive_is_refused(self) -> None:
        asked = context(plan_only=True, redrive_why="repaired", redrive_run="nightly-1", redrive_study=None)
        with pytest.raises(AirflowFailException, match="Leave out plan_only, or redrive_run, redrive_why"):
            is_plan(asked)

    def test_of_any_kind_is_made(self) -> None:
        assert all(open_run(each, context(plan_only=True)).plan_only for each in (clinical_pipeline(), ccda_pipeline()))

    @pytest.mark.parametrize("stage", [FhirValidateOperator, FhirNormalizeOperator])
    def test_has_no_part_for_a_second_chain_of_stages(self, stage: Any) -> None:
        """What was converted is validated whatever became of the tasks before."""
        with pytest.raises(AirflowSkipException, match="ends after normalize"):
            stage(task_id="stage", pipeline=ccda_pipeline(), folder="fhir").execute(context(plan_only=True))


class TestConnections:
    @pytest.fixture
    def s3_server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        with moto_server() as endpoint:
            extra = {"endpoint_url": endpoint, "region_name": "us-east-1", "config_kwargs": {"read_timeout": 7}}
            connection = {"conn_type": "aws", "login": "testing", "password": "testing", "extra": extra}
            monkeypatch.setenv("AIRFLOW_CONN_HOSPITAL", json.dumps(connection))
            yield endpoint

    @pytest.mark.usefixtures("s3_server")
    def test_a_stage_keeps_every_connection_that_it_has_in_flight(self, caplog: pytest.LogCaptureFixture) -> None:
        s3 = connect_s3("hospital")
        s3.client.create_bucket(Bucket="archive")
        s3.put(S3Uri("archive", "a"), b"x")
        in_flight = [s3.client.get_object(Bucket="archive", Key="a")["Body"] for _ in range(20)]
        assert [body.read() for body in in_flight] == [b"x"] * 20
        assert [text for text in caplog.messages if "Connection pool is full" in text] == []

    def test_the_settings_of_the_connection_stay(self, s3_server: str) -> None:
        found = connect_s3("hospital").client.meta
        assert (found.endpoint_url, found.config.read_timeout) == (s3_server, 7)

    @pytest.mark.parametrize(("settings", "name"), [(Staging, "copies_in_flight"), (Delivery, "in_flight")])
    def test_the_most_that_a_pipeline_may_set_is_kept(self, settings: Any, name: str) -> None:
        [most] = [bound.le for bound in settings.model_fields[name].metadata if hasattr(bound, "le")]
        assert most <= CONNECTIONS


@pytest.mark.parametrize(("error", "raised"), [(FhirRejectedError, AirflowFailException), (FhirUnavailableError,) * 2])
def test_a_stage_is_retried_unless_the_data_store_has_rejected_its_request(
    error: Any, raised: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stage(RunOperator[Any]):
        def run_stage(self, run: Any, context: Any) -> None:
            raise error("read Patient", 403)

    monkeypatch.setenv("AIRLOCK_LEDGER_URL", new_ledger(tmp_path / "ledger.db"))
    with pytest.raises(raised, match="read Patient: HTTP 403"):
        Stage(task_id="stage", pipeline=pipeline()).execute(context())


def test_without_a_ledger_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRLOCK_LEDGER_URL", raising=False)
    with pytest.raises(AirflowFailException, match="AIRLOCK_LEDGER_URL"):
        ledger_url()


def test_connection_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", "sqlite:////tmp/other.db")
    monkeypatch.setenv("AIRFLOW_CONN_AIRLOCK_LEDGER", "postgresql://user:secret@db.example/airlock")
    assert ledger_url().startswith("postgres")
    assert ledger_url().endswith("@db.example/airlock")


class TestALedgerInAFile:
    """Each machine would have one of its own, and import what another has."""

    @pytest.fixture(autouse=True)
    def _file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", "sqlite:////var/ledger.db")

    @pytest.mark.parametrize(
        "executor",
        [
            "CeleryExecutor",
            "KubernetesExecutor",
            "LocalExecutor,KubernetesExecutor",
            "airflow.providers.celery.executors.celery_executor.CeleryExecutor",
            "LocalExecutor;radiology=CeleryExecutor",
            "LocalKubernetesExecutor",
        ],
    )
    def test_it_is_refused_where_tasks_run_elsewhere(self, executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
        with pytest.raises(AirflowFailException, match=r"SQLite file.*PostgreSQL") as refused:
            ledger_url()
        assert repr(executor) in str(refused.value)

    def test_of_airflows_own_executors_only_the_local_one_takes_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert LocalExecutor.is_local
        for executor in CORE_EXECUTOR_NAMES - {LocalExecutor.__name__}:
            monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
            with pytest.raises(AirflowFailException, match="SQLite file"):
                ledger_url()

    def test_it_is_refused_in_a_pod_whatever_its_configuration_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_IS_K8S_EXECUTOR_POD", "True")
        with pytest.raises(AirflowFailException, match="SQLite file"):
            ledger_url()

    def test_it_is_refused_in_a_connection_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
        monkeypatch.setenv("AIRFLOW_CONN_AIRLOCK_LEDGER", "sqlite:////var/ledger.db")
        with pytest.raises(AirflowFailException, match="SQLite file"):
            ledger_url()

    @pytest.mark.parametrize("executor", ["LocalExecutor", "airflow.executors.local_executor.LocalExecutor"])
    def test_it_is_taken_where_tasks_run_on_the_schedulers_machine(
        self, executor: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
        assert ledger_url() == "sqlite:////var/ledger.db"

    def test_a_database_is_taken_anywhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", "postgresql://user@db.example/airlock")
        assert ledger_url() == "postgresql://user@db.example/airlock"
