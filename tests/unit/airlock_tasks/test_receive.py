"""The receive sensor: looks once on the worker, waits in the triggerer, ends in a clear timeout."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airlock_tasks.receive import DeliveryCompleteTrigger, ReceiveSensor
from localaws.server import serve
from localaws.settings import Seed
from tests.chain import DATASTORE, pipeline
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT: Any = {"params": {"prefix": None}}
STORE = {
    "data_access_role_arn": "arn:aws:iam::123456789012:role/import",
    "output_uri": "s3://output/imports/",
    "region_name": "us-east-1",
}
MARKER = {"mode": "marker", "marker": "_SUCCESS", "poll_seconds": 0.05}


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with moto_server() as endpoint, serve(s3_endpoint=endpoint, datastore=(Seed(DATASTORE, "test"),)) as imaging:
        extra = {
            "endpoint_url": endpoint,
            "region_name": "us-east-1",
            "service_config": {"medical-imaging": {"endpoint_url": imaging}},
        }
        connection = {"conn_type": "aws", "login": "testing", "password": "testing", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="archive")
        yield client


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


@pytest.mark.usefixtures("archive")
def test_delivery_that_never_completes_ends_in_a_sentence() -> None:
    event = asyncio.run(first(trigger(0)))
    assert event["status"] == "timeout"
    with pytest.raises(AirflowFailException, match="still waiting for the marker object _SUCCESS"):
        sensor(**MARKER).execute_complete(CONTEXT, event)


@pytest.mark.usefixtures("archive")
def test_missing_data_store_is_found_before_anything_is_done() -> None:
    elsewhere = pipeline(healthimaging=STORE | {"datastore_id": "e" * 32})
    with pytest.raises(AirflowFailException, match=r"data store e+ is not there: correct healthimaging\.datastore_id"):
        ReceiveSensor(task_id="receive", pipeline=elsewhere).execute(CONTEXT)


def test_a_plan_takes_what_is_there_now(archive: Any) -> None:
    archive.put_object(Bucket="archive", Key="in/a.dcm", Body=b"12345")
    asked: Any = {"params": {"prefix": None, "plan_only": True}}
    assert sensor(quiet_seconds=300).execute(asked) == {"objects": 1, "bytes": 5}
