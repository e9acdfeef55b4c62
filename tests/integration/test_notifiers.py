"""Each kind of place is really told, by Airflow's notifier of it, through a server of its kind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from airlock_tasks.notify import send_notifications
from tests.chain import pipeline
from tests.servers.smtp import mail_server
from tests.servers.webhook import webhook_endpoint

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

WHAT = "Held: 1. By reason code: study_incomplete 1 <b>."


def told(place: dict[str, Any]) -> None:
    send_notifications(pipeline(notify=[place]), "hold", "manual__1", WHAT)


def test_a_topic_of_sns_and_through_it_a_queue(place: Place) -> None:
    sns, sqs = (boto3.client(name, endpoint_url=place.s3_endpoint, region_name="us-east-1") for name in ("sns", "sqs"))
    queue = sqs.create_queue(QueueName="mailbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = sns.create_topic(Name="archive-team")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)

    told({"sns": topic, "region_name": "us-east-1"})
    (message,) = sqs.receive_message(QueueUrl=queue)["Messages"]
    news = json.loads(message["Body"])
    assert news["Subject"] == "Airlock nightly: hold"
    assert news["Message"].startswith(f"Airlock nightly: hold\nRun: manual__1\n{WHAT}")


def test_people_by_email_whatever_the_text_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server() as server:
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airlock@example.org"}
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        told({"email": ["archive@example.org", "night@example.org"]})
    (mail,) = server.messages
    assert (mail["Subject"], mail["To"]) == ("Airlock nightly: hold", "archive@example.org, night@example.org")
    body = mail.get_body(("html",))
    assert body is not None
    assert "<pre>Airlock nightly: hold\nRun: manual__1\n" in body.get_content()
    assert "&lt;b&gt;" in body.get_content()


def test_a_channel_of_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook_endpoint() as slack:
        slack.body = b'{"ok": true}'
        connection = {"conn_type": "slack", "password": "xoxb-1", "extra": {"base_url": f"{slack.url}/"}}
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_API_DEFAULT", json.dumps(connection))
        told({"slack": "#archive"})
    ((_, request),) = slack.requests
    posted = json.loads(request)
    assert posted["channel"] == "#archive"
    assert posted["text"].startswith(f"Airlock nightly: hold\nRun: manual__1\n{WHAT}")
