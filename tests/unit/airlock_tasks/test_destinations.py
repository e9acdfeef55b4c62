"""A route's destination is made of its Airflow connections; one that is not there stops the task before it sends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airlock.destinations.webhook import Webhook
from airlock.run import Run
from airlock.storage.s3uri import S3Uri
from airlock_tasks.destinations import connect
from tests.servers.moto import moto_server
from tests.unit.airlock.destinations.aws import Aws
from tests.unit.airlock.destinations.messages import BODY, MESSAGE
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

HOOK = {"name": "hook", "webhook": {"conn_id": "hospital"}}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


def run(*routes: dict[str, Any]) -> Run:
    line = pipeline(routes=routes)
    nothing: Any = None
    return Run(line, "one", None, S3Uri.parse(line.source.uri), nothing, nothing)


def connection(monkeypatch: pytest.MonkeyPatch, name: str = "hospital", **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "http"} | fields))


@pytest.mark.parametrize(
    "route", [HOOK, {"name": "hook", "sqs": {"queue_url": "https://q/x", "aws_conn_id": "hospital"}}]
)
def test_a_connection_that_is_not_there_is_named_with_its_route(route: dict[str, Any]) -> None:
    with pytest.raises(AirflowFailException, match="Route 'hook': there is no Airflow connection 'hospital'"):
        connect(run({"name": "first", "eventbridge": {}}, route))


def test_a_webhook_without_a_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connection(monkeypatch, host="pacs.example", schema="https")
    with pytest.raises(AirflowFailException, match=r"Route 'hook': .*'hospital' has no password, which is the secret"):
        connect(run(HOOK))


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "pacs.example"}, "https://pacs.example"),
        ({"host": "pacs.example", "schema": "https", "port": 8443}, "https://pacs.example:8443"),
        ({"host": "https://pacs.example/hooks/1"}, "https://pacs.example/hooks/1"),
        ({"host": "127.0.0.1", "schema": "http", "port": 8080}, "http://127.0.0.1:8080"),
    ],
)
def test_a_webhooks_address_may_be_the_connections(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], url: str
) -> None:
    connection(monkeypatch, password="word", **fields)
    hook = connect(run(HOOK))["hook"]
    assert isinstance(hook, Webhook)
    assert hook.url == url


def test_the_address_of_the_pipeline_file_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    connection(monkeypatch, password="word", host="elsewhere.example")
    hook = connect(run({"name": "hook", "webhook": {"conn_id": "hospital", "url": "https://pacs.example/x"}}))["hook"]
    assert isinstance(hook, Webhook)
    assert hook.url == "https://pacs.example/x"


@pytest.mark.parametrize("host", ["", "http://pacs.example", "https://pacs.example/?token=word"])
def test_an_address_that_is_none_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    connection(monkeypatch, password="word", host=host)
    with pytest.raises(AirflowFailException, match="the Airflow connection 'hospital' is not an endpoint") as info:
        connect(run(HOOK))
    assert "word" not in str(info.value)


def test_queues_topics_and_buses_get_their_messages_through_the_connection(
    monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    aws, extra = Aws(server), {"endpoint_url": server, "region_name": "us-east-1"}
    connection(monkeypatch, "cloud", conn_type="aws", login="testing", password="testing", extra=extra)
    direct, subscriber = aws.queue("direct"), aws.queue("subscriber")
    topic = aws.client("sns").create_topic(Name="studies")["TopicArn"]
    raw = {"RawMessageDelivery": "true"}
    aws.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=aws.arn(subscriber), Attributes=raw)
    found = connect(
        run(
            {"name": "queue", "sqs": {"queue_url": direct, "aws_conn_id": "cloud"}},
            {"name": "topic", "sns": {"topic_arn": topic, "aws_conn_id": "cloud"}},
            {"name": "bus", "eventbridge": {"aws_conn_id": "cloud"}},
        )
    )
    for destination in found.values():
        destination.send(MESSAGE)
    assert [*found] == ["queue", "topic", "bus"]
    assert aws.bodies(direct) == aws.bodies(subscriber) == [BODY]
