"""Routes of a pipeline file are right, or one sentence names the route and the fix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airlock.pipelines import PipelineError, load_pipeline
from tests.unit.airlock.pipelines.test_pipelines import ROOT, changed, problem, written
from tests.unit.airlock.world import STORE, pipeline

if TYPE_CHECKING:
    from pathlib import Path

QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/studies"
TOPIC = "arn:aws:sns:us-east-1:123456789012:studies"
ALL: dict[str, Any] = {"name": "all", "uri": "s3://work/contracts/"}
CT: dict[str, Any] = {
    "name": "ct",
    "sqs": {"queue_url": QUEUE},
    "match": {"field": "ModalitiesInStudy", "equals": "CT"},
}


def named(**content: Any) -> dict[str, Any]:
    return {"name": "to", **content}


@pytest.mark.parametrize(
    ("route", "says"),
    [
        (named(), "route 'to' has no destination: add one of uri, sqs, sns, eventbridge, webhook"),
        (named(uri="s3://work/x/", sqs={"queue_url": QUEUE}), "has 2 destinations (uri, sqs): write a route for each"),
        (named(sqs={"queue_url": QUEUE}, aws_conn_id="x"), "aws_conn_id belongs to uri: write it into the section sqs"),
        (named(sqs={"queue_url": "studies"}), "field 'routes.0.sqs.queue_url'"),
        (named(sqs={}), "field 'routes.0.sqs.queue_url' is missing: add it"),
        (named(sqs={"queue_url": QUEUE, "url": "x"}), "field 'routes.0.sqs.url' is unknown: remove it"),
        (named(sns={"topic_arn": "studies"}), "field 'routes.0.sns.topic_arn'"),
        (named(eventbridge={"source": "aws.s3"}), "AWS reserves sources that start with aws."),
        (named(eventbridge={"bus": ""}), "field 'routes.0.eventbridge.bus'"),
        (named(webhook={"url": "https://pacs/hook"}), "field 'routes.0.webhook.conn_id' is missing: add it"),
        (named(webhook={"conn_id": "x", "timeout_seconds": 0}), "field 'routes.0.webhook.timeout_seconds'"),
        (named(**ALL | {"delivery": {"max_attempts": 0}}), "field 'routes.0.delivery.max_attempts'"),
        (named(**ALL | {"delivery": {"in_flight": 65}}), "field 'routes.0.delivery.in_flight'"),
        (CT | {"match": {"field": "Modality", "equals": "CT"}}, "routes.ct.match: airlock.study/1 has no field"),
        (CT | {"match": {"field": "StudyDate", "gte": "x"}}, "the field is a date: write a date, for example"),
        (CT | {"match": {"field": "StudyID", "regex": "("}}, "field 'routes.0.match.regex'"),
        (CT | {"match": "CT"}, "field 'routes.0.match'"),
        (CT | {"match": None}, "route 'ct': match has no rule, so the route would take everything"),
    ],
)  # fmt: skip
def test_a_wrong_route_is_named_with_the_fix(tmp_path: Path, route: dict[str, Any], says: str) -> None:
    assert says in problem(tmp_path, changed("routes", [route]))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://pacs/hook", "not a web address: write https://host/path"),
        ("https://", "not a web address"),
        ("https://pacs:99999/", "not a web address"),
        ("https://pacs/a b", "not a web address"),
        ("http://pacs/hook", "is http, which others on the network can read and change"),
        ("http://127.0.0.1.evil.example/", "use https"),
        ("https://user:word@pacs/hook", "has a user, a query or a fragment: put secrets into the Airflow connection"),
        ("https://pacs/hook?token=word", "put secrets into the Airflow connection"),
    ],
)
def test_where_a_webhook_may_be(tmp_path: Path, url: str, says: str) -> None:
    route = named(webhook={"conn_id": "hospital", "url": url})
    assert says in problem(tmp_path, changed("routes", [route]))


@pytest.mark.parametrize(
    "url", ["https://pacs.example/a/b", "http://127.0.0.1:8080/", "http://localhost/", "http://[::1]/"]
)
def test_where_a_webhook_is_taken(url: str) -> None:
    assert pipeline(routes=[named(webhook={"conn_id": "hospital", "url": url})]).routes[0].webhook.url == url


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"routes": [ALL, CT], "default_route": "rest"}, "default_route is 'rest', but the routes are all, ct"),
        ({"routes": [], "default_route": "rest"}, "but the routes are none"),
        ({"routes": [CT], "default_route": "ct"}, "the default_route 'ct' takes what no other"),
        (
            {"routes": [ALL, named(sns={"topic_arn": TOPIC})], "default_route": "all"},
            "so the default_route 'all' gets nothing",
        ),
        ({"routes": [ALL, CT], "routing": "first"}, "takes everything, so 'ct' after it gets nothing"),
        ({"routes": [CT, CT | {"name": "too"}]}, "'ct' and 'too' have the same destination: join their rules"),
        ({"routing": "some"}, "field 'routing'"),
    ],
)  # fmt: skip
def test_routes_that_contradict_each_other_are_refused(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    assert says in problem(tmp_path, changed("retries", 3) | content)


def test_rules_of_a_clinical_pipeline_are_held_to_its_own_contracts(tmp_path: Path) -> None:
    from tests.unit.airlock.clinical.books import SECTIONS

    bus = {"name": "bus", "eventbridge": {}, "match": {"field": "subject.kind", "equals": "patient"}}
    assert load_pipeline(written(tmp_path, SECTIONS | {"routes": [bus]})).routes[0].name == "bus"
    with pytest.raises(PipelineError, match=r"routes\.ct\.match: airlock\.clinical/1 has no field 'ModalitiesInStudy'"):
        load_pipeline(written(tmp_path, SECTIONS | {"routes": [CT]}))


def test_a_pipeline_names_the_connections_and_prefixes_of_its_routes() -> None:
    hook = {"name": "hook", "webhook": {"conn_id": "hospital"}}
    line = pipeline(routes=[ALL | {"aws_conn_id": "mine"}, CT, hook])
    assert line.connections() == {"aws_default", "mine", "hospital"}
    assert [name for name in line.own_prefixes() if name.startswith("routes.")] == ["routes.all"]


def test_the_outbox_knows_a_destination_by_its_address_and_the_data_store() -> None:
    bus, hook = {"name": "bus", "eventbridge": {}}, {"name": "hook", "webhook": {"conn_id": "hospital"}}
    topic = {"name": "topic", "sns": {"topic_arn": TOPIC}}
    assert [route.address(STORE) for route in pipeline(routes=[ALL, CT, topic, bus, hook]).routes] == [
        f"s3://work/contracts/{STORE}/",
        f"sqs:{QUEUE}|{STORE}",
        f"sns:{TOPIC}|{STORE}",
        f"eventbridge:default|airlock|Contract Released|{STORE}",
        f"webhook:hospital|{STORE}",
    ]


def test_the_example_of_the_page_is_a_pipelines(tmp_path: Path) -> None:
    page = (ROOT / "docs/routing.md").read_text(encoding="utf-8")
    example = yaml.safe_load(page.split("```yaml")[1].split("```")[0])
    line = load_pipeline(written(tmp_path, changed("retries", 3) | example))
    assert [route.name for route in line.routes] == ["archive", "ct-of-this-year", "viewer", "unsorted"]
