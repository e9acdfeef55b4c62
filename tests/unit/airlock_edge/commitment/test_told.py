"""Messages of Airlock: flushed before they are deleted, in whatever order they come."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import permutations
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from airlock.stages.edge import describe, write_messages
from airlock_edge.commitment.settings import Commitment
from airlock_edge.commitment.store import Told
from airlock_edge.commitment.told import MessageError, ToldReader, parse_message
from airlock_edge.metrics import Metrics
from tests.waiting import until

if TYPE_CHECKING:
    from airlock_edge.commitment.store import CommitmentStore

KEY = "in/north/2026-11-24/0123456789abcdef/89abcdef01234567.dcm"


def message(**changes: Any) -> str:
    row = {"bucket": "archive", "key": KEY, "state": "released", "disposition": "released", "reason": None}
    row |= {"generation": 1, "number": 2, "copy_generation": None, "copy_number": None}
    (body,) = write_messages("nightly", [describe(row) | changes])
    return body


def test_what_airlock_writes_is_what_the_edge_reads():
    assert parse_message(message(), "archive") == [Told(KEY, "released", "released", None, (1, 2))]


def test_objects_of_another_bucket_are_left_out():
    assert parse_message(message(), "elsewhere") == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "[" * 100_000,
        "{}",
        '{"schema": "airlock.told/1"}',
        message().replace("airlock.told/1", "airlock.told/2"),
        message(state="lost"),
        message(order=[]),
        message(order=["1"]),
        message(order=[True]),
        message(key=None),
        message(reason=1),
        message(key="in/\ud800"),
        message(reason="\udfff"),
        '{"Event": "s3:TestEvent"}',
    ],
)
def test_what_is_not_a_message_of_airlock_is_refused(body):
    with pytest.raises(MessageError):
        parse_message(body, "archive")


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_latest_word_counts_in_whatever_order_and_however_often_it_comes(store: CommitmentStore, order):
    words = [Told(KEY, state, state, None, place) for state, place in (("failed", (1, 1)), ("imported", (1, 2)))]
    words.append(Told(KEY, "released", "released", None, (2, 1)))
    for number in (*order, *order):
        store.note_told([words[number]])
    assert store._read("SELECT state FROM told") == [("released",)]


class Queue:
    """A queue in memory, with what was flushed when a message was deleted."""

    def __init__(self, store: CommitmentStore, *bodies: str) -> None:
        self.store = store
        self.bodies = list(bodies)
        self.flushed: list[list[Any]] = []
        self.deleted: list[str] = []

    def call(self, operation: str, **parameters: Any) -> Any:
        return getattr(self, operation)(**parameters)

    def receive_message(self, **_: Any) -> dict[str, Any]:
        found = [{"Body": body, "ReceiptHandle": str(number)} for number, body in enumerate(self.bodies)]
        return {"Messages": found} if found else {}

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> None:
        self.flushed.append(self.store._read("SELECT s3_key FROM told"))
        self.deleted += [self.bodies[int(one["ReceiptHandle"])] for one in Entries]


def reader(store: CommitmentStore, queue: Queue, news: list[bool]) -> ToldReader:
    settings = Commitment(queue_url="http://127.0.0.1:1/123456789012/edge")
    made = ToldReader(
        settings,
        region_name="us-east-1",
        bucket="archive",
        store=store,
        metrics=Metrics(),
        note_news=lambda: news.append(True),
    )
    made._client = queue
    return made


def test_a_message_is_deleted_when_what_it_says_is_flushed(store: CommitmentStore):
    news: list[bool] = []
    queue = Queue(store, message())
    assert reader(store, queue, news).take() == 1
    assert queue.flushed == [[(KEY,)]]
    assert news == [True]


def test_a_message_that_is_not_airlocks_stays_and_the_others_are_taken(store: CommitmentStore, caplog):
    queue = Queue(store, json.dumps({"PatientName": "MUELLER"}), message())
    reader(store, queue, []).take()
    assert queue.deleted == [message()]
    assert "MUELLER" not in caplog.text


def test_a_repeated_word_is_no_news(store: CommitmentStore):
    news: list[bool] = []
    queue = Queue(store, message())
    for _ in range(2):
        reader(store, queue, news).take()
    assert news == [True]


def test_an_answer_that_comes_at_once_and_has_nothing_is_not_asked_for_without_a_pause(store: CommitmentStore):
    """A proxy may answer in place of SQS, with success and a page for people."""
    asked: list[float] = []
    queue = Queue(store)
    queue.receive_message = lambda **_: asked.append(time.monotonic()) or {}  # type: ignore[method-assign, func-returns-value]
    with reader(store, queue, []):
        until("it is asked twice", lambda: len(asked) > 1)
    assert asked[1] - asked[0] >= 0.5


class LatinPage(BaseHTTPRequestHandler):
    """A proxy's page for people, which is not UTF-8."""

    status = 200

    def do_POST(self) -> None:
        page = "Zugriff über den Proxy".encode("latin-1")
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - its name in the base class
        pass


@pytest.mark.parametrize("status", [200, 403])
def test_a_proxys_page_in_another_encoding_does_not_end_the_thread(store: CommitmentStore, monkeypatch, caplog, status):
    """The thread's end is the edge's end: it would receive nothing until the proxy is gone."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    handler = type("Handler", (LatinPage,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        settings = Commitment(queue_url=f"{url}/123456789012/edge", endpoint_url=url)
        made = ToldReader(
            settings, region_name="us-east-1", bucket="archive", store=store, metrics=Metrics(), note_news=lambda: None
        )
        try:
            assert made._step() == 1.0
        finally:
            server.shutdown()
            thread.join()
    assert "UnicodeDecodeError" in caplog.text
    assert "Zugriff" not in caplog.text


@pytest.mark.parametrize("field", ["Body", "ReceiptHandle"])
def test_an_answer_that_lacks_a_field_does_not_end_the_thread(store: CommitmentStore, field):
    queue = Queue(store, message())
    (whole,) = queue.receive_message()["Messages"]
    del whole[field]
    queue.receive_message = lambda **_: {"Messages": [whole]}  # type: ignore[method-assign]
    assert reader(store, queue, [])._step() == 1.0
