"""The receive sensor: looks once on the worker, waits in the triggerer, ends in a clear timeout."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airlock.ledger import Ledger, StoreOrigin
from airlock.records import ARRIVALS
from airlock.run import run_key
from airlock.stages.receive import marker_name
from airlock.storage.s3uri import S3Uri
from airlock_tasks.receive import DeliveryCompleteTrigger, ReceiveSensor
from healthaws.hooks.healthlake import HealthLakeHook
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from healthaws.triggers.pause import PauseTrigger
from localaws.server import serve
from localaws.settings import Seed
from tests.chain import DATASTORE, RECORDS, clinical_pipeline, pipeline
from tests.servers.ledger import new_ledger
from tests.servers.moto import moto_server
from tests.unit.healthaws.emulator import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTEXT: Any = {"params": {"prefix": None}, "run_id": "scheduled__1"}
STORE = {
    "data_access_role_arn": "arn:aws:iam::123456789012:role/import",
    "output_uri": "s3://output/imports/",
    "region_name": "us-east-1",
}
MARKER = {"mode": "marker", "marker": "_SUCCESS", "poll_seconds": 0.05}


@contextmanager
def _archive(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Any]:
    seeds = {"datastore": (Seed(DATASTORE, "test"),), "healthlake_datastore": (Seed(RECORDS, "test"),)}
    with moto_server() as endpoint, serve(s3_endpoint=endpoint, **seeds, **settings) as emulator:
        stores = {"medical-imaging": {"endpoint_url": emulator}, "healthlake": {"endpoint_url": emulator}}
        extra = {"endpoint_url": endpoint, "region_name": "us-east-1", "service_config": stores}
        extra["config_kwargs"] = {"inject_host_prefix": False}
        connection = {"conn_type": "aws", "login": "testing", "password": "testing", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="archive")
        yield client


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with _archive(monkeypatch) as client:
        yield client


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    url = new_ledger(tmp_path / "ledger.db")
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", url)
    with Ledger.open(url) as opened:
        yield opened


def sensor(**receive: Any) -> ReceiveSensor:
    return ReceiveSensor(task_id="receive", pipeline=pipeline(receive=receive))


def trigger(seconds: float) -> DeliveryCompleteTrigger:
    deadline = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    return DeliveryCompleteTrigger(
        source={"uri": "s3://archive/in/"}, prefix="s3://archive/in/", settings=MARKER, deadline=deadline
    )


async def first(waiting: DeliveryCompleteTrigger) -> Any:
    return (await anext(aiter(waiting.run()))).payload


def test_complete_delivery_takes_no_trigger(archive: Any) -> None:
    archive.put_object(Bucket="archive", Key="in/a", Body=b"12345")
    assert sensor(mode="quiet_period", quiet_seconds=0).execute(CONTEXT) == {"objects": 1, "bytes": 5}


@pytest.mark.usefixtures("archive")
def test_incomplete_delivery_defers_to_a_trigger_that_survives_the_journey() -> None:
    with pytest.raises(TaskDeferred) as caught:
        sensor(**MARKER).execute(CONTEXT)
    path, fields = caught.value.trigger.serialize()
    assert path == "airlock_tasks.receive.DeliveryCompleteTrigger"
    assert DeliveryCompleteTrigger(**json.loads(json.dumps(fields))).serialize() == (path, fields)


def test_trigger_fires_when_the_marker_comes(archive: Any) -> None:
    async def deliver_meanwhile() -> Any:
        waiting = asyncio.create_task(first(trigger(60)))
        await asyncio.to_thread(archive.put_object, Bucket="archive", Key="in/_SUCCESS", Body=b"")
        return await waiting

    assert asyncio.run(deliver_meanwhile())["status"] == "success"


def test_the_marker_of_the_delivery_before_is_not_enough(archive: Any, ledger: Ledger) -> None:
    archive.put_object(Bucket="archive", Key="in/_SUCCESS", Body=b"")
    written = archive.head_object(Bucket="archive", Key="in/_SUCCESS")["LastModified"]
    receive = sensor(**MARKER)
    assert receive.execute(CONTEXT) == {"objects": 0, "bytes": 0}

    before = run_key("nightly", "scheduled__0")
    ledger.open_run(before, "nightly", "scheduled__0", None)
    ledger.note_marker(before, marker_name(S3Uri("archive", "in/"), receive.pipeline.receive), written)
    assert receive.execute(CONTEXT) == {"objects": 0, "bytes": 0}  # buffer of that run has claimed nothing
    ledger.claim("nightly", before, ARRIVALS.to_frame(), written)
    with pytest.raises(TaskDeferred) as caught:
        receive.execute(CONTEXT)
    assert caught.value.trigger.serialize()[1]["used_marker"] == written.isoformat()
    assert receive.execute(CONTEXT | {"run_id": "scheduled__0"}) == {"objects": 0, "bytes": 0}


def test_of_two_runs_that_wait_for_one_marker_the_second_waits_for_the_next(archive: Any, ledger: Ledger) -> None:
    receive = sensor(**MARKER)
    with pytest.raises(TaskDeferred) as waits:
        receive.execute(CONTEXT)
    archive.put_object(Bucket="archive", Key="in/_SUCCESS", Body=b"")
    written = archive.head_object(Bucket="archive", Key="in/_SUCCESS")["LastModified"]
    trigger: Any = waits.value.trigger
    event = asyncio.run(first(trigger))
    other = run_key("nightly", "scheduled__0")
    ledger.open_run(other, "nightly", "scheduled__0", None)
    ledger.note_marker(other, marker_name(S3Uri("archive", "in/"), receive.pipeline.receive), written)
    assert waits.value.kwargs is not None
    assert receive.execute_complete(CONTEXT, event, **waits.value.kwargs) == {"objects": 0, "bytes": 0}
    ledger.claim("nightly", other, ARRIVALS.to_frame(), written)
    with pytest.raises(TaskDeferred) as again:
        receive.execute_complete(CONTEXT, event, **waits.value.kwargs)
    assert again.value.trigger.serialize()[1]["used_marker"] == written.isoformat()


def test_trigger_waits_for_a_newer_marker(archive: Any) -> None:
    archive.put_object(Bucket="archive", Key="in/_SUCCESS", Body=b"")
    written = archive.head_object(Bucket="archive", Key="in/_SUCCESS")["LastModified"]
    fields = trigger(0).serialize()[1]
    late = DeliveryCompleteTrigger(**fields | {"used_marker": written.isoformat()})
    assert asyncio.run(first(late))["status"] == "timeout"
    early = DeliveryCompleteTrigger(**fields | {"used_marker": (written - timedelta(seconds=1)).isoformat()})
    assert asyncio.run(first(early))["status"] == "success"


@pytest.mark.usefixtures("archive")
def test_delivery_that_never_completes_ends_in_a_sentence() -> None:
    event = asyncio.run(first(trigger(0)))
    assert event["status"] == "timeout"
    with pytest.raises(AirflowFailException, match="it waits for the marker object _SUCCESS"):
        sensor(**MARKER).execute_complete(CONTEXT, event)


@pytest.mark.usefixtures("archive")
def test_missing_data_store_is_found_before_anything_is_done() -> None:
    elsewhere = pipeline(healthimaging=STORE | {"datastore_id": "e" * 32})
    with pytest.raises(AirflowFailException, match=r"e+ does not exist. Correct healthimaging\.datastore_id"):
        ReceiveSensor(task_id="receive", pipeline=elsewhere).execute(CONTEXT)


class TestStoreThatIsChanged:
    """HealthLake's analytics settings are changed while the store is UPDATING."""

    def receive(self, **receive: Any) -> ReceiveSensor:
        settings = {"mode": "quiet_period", "quiet_seconds": 0, "poll_seconds": 0.1} | receive
        return ReceiveSensor(task_id="receive", pipeline=clinical_pipeline(receive=settings))

    def change(self) -> None:
        hook = HealthLakeHook(aws_conn_id="aws_default", region_name="us-east-1")
        hook.conn.update_fhir_datastore(DatastoreId=RECORDS, DatastoreName="renamed")

    def test_is_waited_for_in_one_try(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with _archive(monkeypatch, change_seconds=0.5) as archive:
            archive.put_object(Bucket="archive", Key="in/a", Body=b"12345")
            self.change()
            assert run(self.receive(), CONTEXT) == {"objects": 1, "bytes": 5}

    def test_for_longer_than_a_delivery_may_take_fails_with_its_state(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with _archive(monkeypatch, change_seconds=600):
            self.change()
            with pytest.raises(TaskDeferred) as deferral:
                self.receive().execute(CONTEXT)
            assert isinstance(deferral.value.trigger, PauseTrigger)
            with pytest.raises(
                AirflowFailException, match=f"The data store {RECORDS} is UPDATING, for 0.01 minutes now"
            ):
                run(self.receive(timeout_minutes=0.01), CONTEXT)

    def test_without_success_is_used_as_it_was_and_told(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with _archive(monkeypatch, change_seconds=0.0, choices={"fhir_update_ends": "update_failed"}) as archive:
            archive.put_object(Bucket="archive", Key="in/a", Body=b"12345")
            self.change()
            assert run(self.receive(), CONTEXT) == {"objects": 1, "bytes": 5}
        assert f"The data store {RECORDS} is UPDATE_FAILED" in caplog.text


def test_a_plan_takes_what_is_there_now(archive: Any) -> None:
    archive.put_object(Bucket="archive", Key="in/a.dcm", Body=b"12345")
    asked: Any = {"params": {"prefix": None, "plan_only": True}}
    assert sensor(quiet_seconds=300).execute(asked) == {"objects": 1, "bytes": 5}


class TestDataStoreThatOthersFilled:
    """The ledger knows no import into it, since others filled it or since the ledger was lost."""

    def fill(self) -> None:
        store = HealthLakeFhirHook(RECORDS, aws_conn_id="aws_default", region_name="us-east-1")
        store.create({"resourceType": "Patient"})

    def receive(self) -> ReceiveSensor:
        quiet = {"mode": "quiet_period", "quiet_seconds": 0}
        return ReceiveSensor(task_id="receive", pipeline=clinical_pipeline(receive=quiet))

    @pytest.mark.usefixtures("archive")
    def test_stops_before_anything_is_claimed_and_names_both_ways(self) -> None:
        self.fill()
        both = rf"resources of type Patient in it.*ledger rebuild.*ledger adopt --datastore {RECORDS} --why"
        with pytest.raises(AirflowFailException, match=both):
            self.receive().execute(CONTEXT)

    @pytest.mark.usefixtures("archive")
    def test_is_used_as_soon_as_it_is_known(self, ledger: Ledger) -> None:
        self.fill()
        ledger.note_store(RECORDS, StoreOrigin.REBUILT)
        assert self.receive().execute(CONTEXT) == {"objects": 0, "bytes": 0}

    @pytest.mark.usefixtures("archive")
    def test_can_be_planned(self) -> None:
        self.fill()
        asked: Any = {"params": {"prefix": None, "plan_only": True}}
        assert self.receive().execute(asked) == {"objects": 0, "bytes": 0}
