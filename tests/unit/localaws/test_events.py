"""EventBridge events, as a queue behind a rule receives them."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from localaws.server import serve
from localaws.settings import Seed
from tests.contract.localaws.dicom_files import part10
from tests.contract.localaws.endpoint import DATASTORE, ROLE, Endpoint, local_imaging, local_s3, until
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto_server() as url:
        yield url


def endpoint_of(url: str, s3_endpoint: str) -> Endpoint:
    return Endpoint(
        local_imaging(url), local_s3(s3_endpoint), DATASTORE, ROLE, "s3://contract-input/", "s3://contract-output/", url
    )


def queue_behind_rule(aws: str) -> Any:
    """Return a function that receives what a rule on our source passes on."""
    sqs = boto3.client("sqs", region_name="us-east-1", endpoint_url=aws)
    events = boto3.client("events", region_name="us-east-1", endpoint_url=aws)
    queue = sqs.create_queue(QueueName="imaging-events")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    events.put_rule(Name="imaging", EventPattern=json.dumps({"source": ["aws.medical-imaging"]}))
    events.put_targets(Rule="imaging", Targets=[{"Id": "queue", "Arn": attributes["Attributes"]["QueueArn"]}])
    received: list[dict[str, Any]] = []

    def receive() -> list[dict[str, Any]]:
        messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        received.extend(json.loads(message["Body"]) for message in messages)
        return received

    return receive


def test_an_import_is_announced_step_by_step(aws: str) -> None:
    receive = queue_behind_rule(aws)
    with serve(s3_endpoint=aws, events_endpoint=aws, datastore=(Seed(DATASTORE, "events"),)) as url:
        endpoint = endpoint_of(url, aws)
        job = endpoint.import_files({"a.dcm": part10()}, jobName="announced")
        events = until(receive, lambda seen: any(event["detail-type"] == "Import Job Completed" for event in seen))
    steps = [event for event in events if event["detail-type"].startswith("Import Job")]
    assert [event["detail-type"] for event in steps] == [
        "Import Job Submitted",
        "Import Job In Progress",
        "Import Job Completed",
    ]
    last = steps[-1]
    assert last["source"] == "aws.medical-imaging"
    assert last["resources"] == [f"arn:aws:medical-imaging:us-east-1:123456789012:datastore/{DATASTORE}"]
    assert last["detail"] == {
        "imagingVersion": "1.0",
        "datastoreId": DATASTORE,
        "jobId": job.properties["jobId"],
        "jobName": "announced",
        "jobStatus": "COMPLETED",
        "inputS3Uri": job.properties["inputS3Uri"],
        "outputS3Uri": job.properties["outputS3Uri"],
    }
    (created,) = [event for event in events if event["detail-type"] == "Image Set Created"]
    assert created["detail"]["imagesetId"] == job.image_set_ids[0]
    assert created["detail"]["imageSetVersion"] == "1"
    assert created["detail"]["isPrimary"] is True


def test_an_event_bus_that_does_not_answer_costs_a_log_line_only(aws: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="localaws"),
        serve(s3_endpoint=aws, events_endpoint="http://127.0.0.1:9", datastore=(Seed(DATASTORE, "x"),)) as url,
    ):
        job = endpoint_of(url, aws).import_files({"a.dcm": part10()})
        assert job.properties["jobStatus"] == "COMPLETED"
    assert "was not delivered" in caplog.text
