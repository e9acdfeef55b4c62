"""The edge is told by SQS what became of its objects, by every run that decides about them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from airlock.records import digest, study_key
from tests.chain import Chain, pipeline
from tests.dicom_files import ct, delivery, study_uid

if TYPE_CHECKING:
    from airlock.pipelines import ImagingPipeline
    from tests.chain import Place

pytestmark = pytest.mark.slow


class Queue:
    """The edge's queue."""

    def __init__(self, place: Place) -> None:
        self.sqs = boto3.client("sqs", endpoint_url=place.s3_endpoint, region_name="us-east-1")
        self.url = self.sqs.create_queue(QueueName="edge")["QueueUrl"]

    def settings(self, **changes: Any) -> ImagingPipeline:
        return pipeline(edge={"queue_url": self.url, "region_name": "us-east-1"}, **changes)

    def take(self) -> dict[str, tuple[str, str | None, list[int]]]:
        """Return what was told since the last call, by key: state, reason and order."""
        told: dict[str, tuple[str, str | None, list[int]]] = {}
        while found := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in found:
                content = json.loads(message["Body"])
                told |= {one["key"]: (one["state"], one["reason"], one["order"]) for one in content["objects"]}
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return told


def named(study: int, number: int) -> str:
    """Return a key as the edge names an object."""
    return f"north/2026-11-24/{study_key(study_uid(study))}/{digest(str(study), str(number), length=16)}.dcm"


def received(studies: int, instances: int) -> dict[str, bytes]:
    """Return a delivery under keys of the edge."""
    bodies = iter(delivery(studies=studies, instances=instances).values())
    return {named(study, number): next(bodies) for study in range(1, studies + 1) for number in range(1, instances + 1)}


def states(told: dict[str, tuple[str, str | None, list[int]]], study: int, instances: int = 2) -> list[str]:
    return [told[f"in/{named(study, number)}"][0] for number in range(1, instances + 1)]


def test_the_edge_is_told_by_the_run_that_settles_and_by_the_redrive(place: Place) -> None:
    queue, files = Queue(place), received(studies=2, instances=2)
    whole = files[named(2, 2)]
    files[named(2, 2)] = whole[:-50]
    place.put(files | {"MUELLER^HANS/1.dcm": ct(3)})
    first = Chain(place, queue.settings(), run_id="manual__first")
    first.run()
    told = queue.take()
    assert states(told, 1) == ["released", "released"]
    assert states(told, 2)[0] == "imported"
    assert "MUELLER" not in str(told)
    first.onward("audit")
    assert queue.take() == {}

    place.put({named(2, 2): whole})
    asked = {"redrive_why": "cured", "redrive_by": "ada", "redrive_run": "manual__first"}
    Chain(place, queue.settings(), run_id="manual__again", params=asked).run()
    after = queue.take()
    assert after[f"in/{named(2, 1)}"][0] == "released"
    assert after[f"in/{named(2, 1)}"][2] > told[f"in/{named(2, 1)}"][2]


def test_a_queue_that_is_down_delays_no_contract_and_the_next_run_tells_the_edge(place: Place) -> None:
    queue = Queue(place)
    place.put(received(studies=1, instances=2))
    gone = pipeline(edge={"queue_url": f"{queue.url}-gone", "region_name": "us-east-1"})
    refused = r"The edge's queue did not take every message \(NonExistentQueue|QueueDoesNotExist"
    with pytest.raises(Exception, match=refused):
        Chain(place, gone, run_id="manual__first", tries=1).run()
    assert len(place.contracts()) == 1
    Chain(place, queue.settings(), run_id="manual__next").run()
    assert states(queue.take(), 1) == ["released", "released"]
