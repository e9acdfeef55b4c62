"""Who is told of a hold, a failure and a late delivery: messages in a real queue, with counts and reason codes only."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airlock_tasks import telemetry
from airlock_tasks.notify import on_failure
from tests.chain import HEALTHLAKE, Chain, pipeline
from tests.dicom_files import ct

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

CANARY = {"PatientID": "CANARY-ID", "PatientName": "Canary^Name", "AccessionNumber": "CANARY-ACC"}
HELD = {"CANARY-1.dcm": ct(3, 1, 1, **CANARY), "CANARY-2.dcm": ct(3, 1, 2, **CANARY)[:-100]}


# One file of no known study: the folder, which may be named after a patient, holds several studies.
LEFT = {f"CANARY-FOLDER/{n}.dcm": ct(n, 1, 1, **CANARY) for n in (7, 8)} | {"CANARY-FOLDER/9.dcm": b""}


class Queue:
    def __init__(self, place: Place) -> None:
        self.client = boto3.client("sqs", endpoint_url=place.s3_endpoint, region_name="us-east-1")
        self.url = self.client.create_queue(QueueName="news")["QueueUrl"]

    def take(self) -> list[str]:
        reply = self.client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10)
        for message in reply.get("Messages", []):
            self.client.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return [message["Body"] for message in reply.get("Messages", [])]


@pytest.fixture
def queue(place: Place) -> Queue:
    return Queue(place)


def chain(place: Place, queue: Queue, **changes: Any) -> Chain:
    notify = [{"sqs": queue.url, "region_name": "us-east-1"}]
    return Chain(place, pipeline(**({"notify": notify} | changes)), run_id="manual__1")


def test_a_hold_is_told_once_with_counts_and_reason_codes(
    place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/")
    place.put(HELD)
    run = chain(place, queue)
    run.run()
    (text,) = queue.take()
    assert text.startswith("Airlock nightly: hold\nRun: manual__1\nHeld: 1. Held and set aside, by reason code")
    assert "study_incomplete 1" in text
    assert text.endswith("https://airflow.example/dags/nightly/runs/manual__1")
    assert "CANARY" not in text.upper()
    run.onward("audit")
    assert queue.take() == []


def test_no_folder_is_told_that_may_be_named_after_a_patient(
    place: Place, queue: Queue, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    place.put(HELD | LEFT)
    run = chain(place, queue)
    report = run.run()
    assert report["unattributed"] == {"files": 1, "sites": {}}
    (text,) = queue.take()
    assert "Unattributed: 1 (not readable, and of no known study)" in text
    said = text + json.dumps(report) + caplog.text + "".join(capfd.readouterr()) + str(dict(run.xcom))
    assert "CANARY" not in said.upper()


def test_an_overdue_object_is_told_once_and_stays_in_the_report(place: Place, queue: Queue) -> None:
    place.put({"CANARY-1.dcm": ct(1, 1, 1)})
    first = chain(place, queue)
    first.until("buffer")
    place.take("archive")
    assert first.onward("parse")["reasons"].keys() == {"object_gone"}
    source = {"uri": "s3://archive/in/", "owed_days": 1e-9}
    later = [replace(chain(place, queue, source=source), run_id=f"manual__{number}") for number in (2, 3)]
    told = []
    for run in later:
        owed = run.run()["owed"]
        assert (owed["overdue"], owed["reasons"]["object_gone"]["objects"]) == (1, 1)
        told.append(queue.take())
    assert "\nOverdue: 1 objects could not be taken, 1 of them new. By reason: object_gone 1." in told[0][0]
    assert "CANARY" not in told[0][0]
    assert told[1] == []


def test_a_run_that_holds_nothing_tells_nothing(place: Place, queue: Queue) -> None:
    place.put({"1.dcm": ct(1, 1, 1)})
    chain(place, queue, healthlake=HEALTHLAKE).run()
    assert queue.take() == []


def test_what_could_not_be_published_is_told_after_the_publication(place: Place, queue: Queue) -> None:
    place.put({"1.dcm": ct(1, 1, 1)})
    place.faults({"kind": "all_resources_rejected", "key": "ImagingStudy/*"})
    chain(place, queue, healthlake=HEALTHLAKE).run()
    (text,) = queue.take()
    assert "Held: 1. Held and set aside, by reason code: not_published 1." in text


def test_a_late_delivery_is_told_once_and_waited_for_on(place: Place, queue: Queue) -> None:
    place.put({"1.dcm": ct(1, 1, 1)})
    wait = {"mode": "marker", "poll_seconds": 0.05, "late_after_minutes": 0.002, "timeout_minutes": 0.02}
    run = chain(place, queue, receive=wait)
    with pytest.raises(AirflowFailException, match="is not complete after"):
        run.stage("receive")
    (text,) = queue.take()
    assert text.startswith("Airlock nightly: late\nRun: manual__1\nStill waiting for")


def test_a_failed_run_is_told(place: Place, queue: Queue) -> None:
    run = chain(place, queue)
    assert run.dag.has_on_failure_callback
    callback = run.dag.on_failure_callback
    assert callable(callback)
    callback({"run_id": "manual__1", "dag": run.dag})
    (text,) = queue.take()
    assert text.startswith("Airlock nightly: failure\nRun: manual__1")


def test_nobody_is_told_of_what_they_did_not_ask_for(place: Place, queue: Queue) -> None:
    place.put(HELD)
    run = chain(place, queue, notify=[{"events": ["late"], "sqs": queue.url, "region_name": "us-east-1"}])
    run.run()
    assert on_failure(run.pipeline) is None
    assert queue.take() == []


def test_a_place_that_cannot_be_told_fails_nothing_and_keeps_its_secrets(
    place: Place, queue: Queue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.put(HELD)
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(telemetry.Stats, "gauge", lambda name, _, tags: told.append((name, tags.get("kind", ""))))
    gone = {"sqs": f"{queue.url}-gone", "region_name": "us-east-1"}
    run = chain(place, queue, notify=[gone, {"sqs": queue.url, "region_name": "us-east-1"}])
    assert run.run()["balanced"]
    assert len(queue.take()) == 1
    assert "Notification of hold by sqs failed: " in caplog.text
    assert "CANARY" not in caplog.text.upper()
    assert ("airlock.notify.failed", "sqs") in told


def test_a_place_without_its_connection_is_refused_when_the_run_begins(place: Place, queue: Queue) -> None:
    run = chain(place, queue, notify=[{"slack": "#archive"}])
    with pytest.raises(
        AirflowFailException, match=r"no Airflow connection 'slack_api_default'. Create it, or correct notify\.0"
    ):
        run.stage("receive")
