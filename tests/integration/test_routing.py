"""Released studies on their way: by rule, to several kinds of destinations, and past one that is down."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airlock.records import study_key
from airlock.stages.route import RouteError
from tests.chain import Chain, pipeline
from tests.dicom_files import ct, delivery, study_uid
from tests.servers.webhook import webhook_endpoint

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

AT_ONCE = {"backoff_seconds": 0}


def queue(place: Place) -> tuple[Any, str]:
    sqs = boto3.client("sqs", endpoint_url=place.s3_endpoint, region_name="us-east-1")
    return sqs, sqs.create_queue(QueueName="studies.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]


def test_each_study_goes_where_its_rule_says_and_a_dead_endpoint_keeps_nobody_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.put(delivery(studies=3, instances=1))
    sqs, url = queue(place)
    with webhook_endpoint() as endpoint:
        hospital = {"conn_type": "http", "host": endpoint.url, "password": "known to two"}
        monkeypatch.setenv("AIRFLOW_CONN_HOSPITAL", json.dumps(hospital))
        endpoint.die()
        routes = [
            {"name": "queue", "sqs": {"queue_url": url}, "match": {"field": "series.Modality", "equals": "CT"}},
            {"name": "hook", "webhook": {"conn_id": "hospital"}, "delivery": AT_ONCE},
            {"name": "never", "uri": "s3://contracts/mr/", "match": {"field": "ModalitiesInStudy", "equals": "MR"}},
        ]
        chain = Chain(place, pipeline(routes=routes))
        with pytest.raises(RouteError, match=r"not delivered\. hook: 3 in the outbox \(ConnectError\); the next try"):
            chain.run()
        endpoint.start()
        chain.stage("route")
        found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
        queued = [json.loads(one["Body"]) for one in found]
        posted = [json.loads(body) for _, body in endpoint.requests]
    assert {one["subject_key"] for one in queued} == {one["subject_key"] for one in posted}
    assert (len(queued), len(posted), place.contracts()) == (3, 3, [])
    for one in queued:
        bucket, _, key = one["contract_uri"].removeprefix("s3://").partition("/")
        contract = json.loads(place.s3().get_object(Bucket=bucket, Key=key)["Body"].read())
        assert study_key(contract["StudyInstanceUID"]) == one["subject_key"]
        assert contract["StudyInstanceUID"] not in caplog.text + json.dumps(queued + posted)
    assert chain.xcom["route", 0] == {"queue": 0, "hook": 3, "never": 0}


def test_a_missing_connection_stops_the_task_before_anything_is_sent(place: Place) -> None:
    place.put(delivery(studies=1, instances=1))
    routes = [{"name": "contracts", "uri": "s3://contracts/all/"}, {"name": "hook", "webhook": {"conn_id": "nobody"}}]
    with pytest.raises(AirflowFailException, match="Route 'hook': there is no Airflow connection 'nobody'"):
        Chain(place, pipeline(routes=routes)).run()
    assert place.contracts() == []


def test_a_label_of_the_headers_sends_a_study_to_its_route_and_decides_on_no_release(place: Place) -> None:
    scout = ct(1, 1, 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ContrastBolusAgent="Ultravist 370")
    place.put({"1.dcm": scout, "2.dcm": ct(2, 1, 1)})
    contrast = {"field": "series.classification.contrast.values", "regex": "."}
    localizer = {"field": "series.classification.kind.values", "equals": "localizer"}
    rules = [
        {"label": "contrast", "match": contrast},
        {"label": "scout", "of": "series", "match": localizer},
    ]
    routes = [
        {"name": "contrast", "uri": "s3://contracts/contrast/", "match": {"field": "labels", "equals": "contrast"}},
        {"name": "rest", "uri": "s3://contracts/rest/"},
    ]
    chain = Chain(place, pipeline(classify=rules, routes=routes, routing="first"))
    assert chain.run()["dispositions"] == {"released": 2}
    found = zip(place.keys("contracts"), place.contracts(), strict=True)
    sent = {key.split("/")[0]: contract for key, contract in found}
    assert (sent["contrast"]["StudyInstanceUID"], sent["rest"]["StudyInstanceUID"]) == (study_uid(1), study_uid(2))
    assert sent["contrast"]["labels"] == ["contrast"]
    assert sent["contrast"]["series"][0]["labels"] == ["scout"]
    assert sent["contrast"]["series"][0]["classification"]["contrast"]["tags"] == ["(0018,0010)"]
    assert "labels" not in sent["rest"]
