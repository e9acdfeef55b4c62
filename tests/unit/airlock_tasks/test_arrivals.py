"""The queue's reader and its trigger, against moto's SQS: nothing is deleted before its event is stored."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import boto3
import pytest
from airflow.triggers.shared_stream import AdvanceItem, AdvanceOutcome, SharedStreamManager

from airlock.pipelines import Arrivals
from airlock_tasks import arrivals, buffer
from airlock_tasks.arrivals import ArrivalsTrigger, QueueProducer, arrivals_asset
from airlock_tasks.dag import new_dag
from tests.chain import pipeline
from tests.cut_off import address
from tests.servers.moto import moto_server
from tests.servers.proxy import proxies
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

LOGGED = "Sending to the dead-letter queue failed", "queue cannot be read"
STORED, LOST, REFUSED = AdvanceOutcome(1, 0), AdvanceOutcome(0, 1), AdvanceOutcome(0, 0, rejected=1)


def notice(key: str, bucket: str = "archive") -> str:
    place = {"bucket": {"name": bucket}, "object": {"key": key, "size": 1, "eTag": "e"}}
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": place}]})


class Queues:
    """A queue and its dead-letter queue."""

    def __init__(self, endpoint: str) -> None:
        self.sqs = boto3.client("sqs", endpoint_url=endpoint, region_name="us-east-1")
        self.url = self.sqs.create_queue(QueueName="arrivals")["QueueUrl"]
        self.dead = self.sqs.create_queue(QueueName="dead")["QueueUrl"]

    def settings(self, **changes: Any) -> Arrivals:
        given = {"queue_url": self.url, "dead_letter_queue_url": self.dead, "gather_seconds": 0.2}
        return Arrivals.model_validate(given | {"backoff_seconds": 0.05} | changes)

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def numbers(self, url: str) -> tuple[int, int]:
        """Return how many messages can be received, and how many are in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        said = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(said[names[0]]), int(said[names[1]])


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    with moto_server() as endpoint:
        extra = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        connection = {"conn_type": "aws", "login": "testing", "password": "testing", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        yield Queues(endpoint)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What went to Airflow's metrics."""
    numbers: dict[str, int] = {}

    def incr(stat: str, count: int = 1, *, tags: dict[str, str] | None = None) -> None:
        numbers[stat] = numbers.get(stat, 0) + count

    monkeypatch.setattr(arrivals, "incr", incr)
    return numbers


def reading(settings: Arrivals, act: Callable[[QueueProducer, Any], Awaitable[None]]) -> None:
    """Act on the first burst that a reader yields."""

    async def read() -> None:
        producer = QueueProducer(settings)
        stream = producer.open_stream()
        try:
            await act(producer, await anext(stream))
        finally:
            await stream.aclose()
            await producer.aclose()

    asyncio.run(asyncio.wait_for(read(), 60))


def test_messages_of_a_burst_make_one_event_and_are_deleted_when_it_is_stored(queues: Queues) -> None:
    queues.send(*[notice(f"in/{number}.dcm") for number in range(25)])
    inside = []

    async def act(producer: QueueProducer, item: Any) -> None:
        burst, receipts = item
        inside.extend([len(burst.notifications), queues.numbers(queues.url)])
        await producer.advance([AdvanceItem(receipts, STORED)])

    reading(queues.settings(gather_seconds=1), act)
    assert inside == [25, (0, 25)]
    assert queues.numbers(queues.url) == (0, 0)


def test_full_burst_does_not_wait(queues: Queues) -> None:
    queues.send(*[notice(f"in/{number}.dcm") for number in range(25)])

    async def act(producer: QueueProducer, item: Any) -> None:
        assert len(item[1]) == 20

    reading(queues.settings(gather_seconds=3000, gather_messages=20), act)


@pytest.mark.parametrize(("outcome", "left"), [(STORED, 0), (REFUSED, 0), (LOST, 1), (AdvanceOutcome(0, 0), 1)])
def test_message_is_deleted_only_when_airflow_has_its_event(queues: Queues, outcome: Any, left: int) -> None:
    queues.send(notice("in/a.dcm"))

    async def act(producer: QueueProducer, item: Any) -> None:
        await producer.advance([AdvanceItem(item[1], outcome)])

    reading(queues.settings(), act)
    assert sum(queues.numbers(queues.url)) == left


def test_reader_that_ends_gives_back_what_it_has_not_settled(queues: Queues) -> None:
    queues.send(*[notice(f"in/{number}.dcm") for number in range(12)])

    async def act(producer: QueueProducer, item: Any) -> None:
        assert queues.numbers(queues.url) == (0, 12)

    reading(queues.settings(gather_seconds=1), act)
    assert queues.numbers(queues.url) == (12, 0)


def test_message_stays_invisible_longer_than_airflow_waits_for_its_event(queues: Queues) -> None:
    assert QueueProducer(queues.settings(gather_seconds=30))._invisible_seconds() > 300 + 30
    assert QueueProducer(queues.settings(gather_seconds=3600))._invisible_seconds() <= 12 * 3600


def test_poison_goes_to_the_dead_letter_queue_and_stops_nothing(queues: Queues, counted: dict[str, int]) -> None:
    queues.send("no notification", notice("in/a.dcm"), "{}")

    async def act(producer: QueueProducer, item: Any) -> None:
        burst, receipts = item
        assert (len(burst.notifications), burst.poison) == (1, 2)
        await producer.advance([AdvanceItem(receipts, STORED)])

    reading(queues.settings(gather_seconds=1), act)
    assert queues.numbers(queues.url) == (0, 0)
    asked = queues.sqs.receive_message(
        QueueUrl=queues.dead, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=0
    )
    dead = {item["Body"]: item["MessageAttributes"]["reason"]["StringValue"] for item in asked["Messages"]}
    assert dead == {"no notification": "not_json", "{}": "no_notification"}
    assert counted == {"airlock.arrivals.messages": 3, "airlock.arrivals.poison": 2}


@pytest.mark.parametrize("dead", [None, "http://127.0.0.1/123456789012/nobody-made-it"])
def test_poison_that_cannot_be_set_aside_is_left_in_the_queue(queues: Queues, dead: str | None) -> None:
    queues.send("no notification", notice("in/a.dcm"))

    async def act(producer: QueueProducer, item: Any) -> None:
        await producer.advance([AdvanceItem(item[1], STORED)])

    reading(queues.settings(gather_seconds=1, dead_letter_queue_url=dead), act)
    assert queues.numbers(queues.url) == (0, 1)


def test_queue_that_is_not_there_yet_is_waited_for(queues: Queues, counted: dict[str, int]) -> None:
    late = queues.url.replace("arrivals", "late")

    async def read() -> None:
        producer = QueueProducer(queues.settings(queue_url=late))
        stream = producer.open_stream()
        first = asyncio.ensure_future(anext(stream))
        await asyncio.to_thread(until, "a try failed", lambda: counted.get("airlock.arrivals.failures"), 20)
        queues.sqs.create_queue(QueueName="late")
        queues.sqs.send_message(QueueUrl=late, MessageBody=notice("in/a.dcm"))
        assert len((await first)[1]) == 1
        await stream.aclose()
        await producer.aclose()

    asyncio.run(asyncio.wait_for(read(), 60))


def test_a_queue_that_is_cut_off_is_read_again_and_the_log_names_no_object(
    queues: Queues, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queues.send("CANARYX^JANE, which is no notification")
    with proxies(1) as (proxy,):
        proxy.target = address(queues.sqs.meta.endpoint_url)
        once = {"retries": {"total_max_attempts": 1}}
        extra = {"endpoint_url": proxy.url, "region_name": "us-east-1", "config_kwargs": once}
        connection = {"conn_type": "aws", "login": "testing", "password": "testing", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        proxy.cut_at("CANARYX")  # when the message is sent to the dead-letter queue

        async def read() -> None:
            producer = QueueProducer(queues.settings())
            stream = producer.open_stream()
            burst = asyncio.ensure_future(anext(stream))
            await asyncio.to_thread(until, "both are logged", lambda: all(text in caplog.text for text in LOGGED), 30)
            proxy.restore()
            queues.send(notice("in/a.dcm"))
            await burst
            await stream.aclose()
            await producer.aclose()

        asyncio.run(asyncio.wait_for(read(), 60))
    assert "ConnectionClosedError" in caplog.text
    assert [name for name in ("CANARYX", "http://") if name in caplog.text] == []


def test_what_sqs_could_not_delete_is_tried_again(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    """moto deletes always, so this client stands for a service that does not."""

    class Failing:
        asked: ClassVar[list[list[str]]] = []

        async def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:
            self.asked.append([entry["ReceiptHandle"] for entry in Entries])
            if len(self.asked) == 1:
                return {"Failed": [{"Id": "1", "SenderFault": False}, {"Id": "2", "SenderFault": True}]}
            return {}

    producer = QueueProducer(queues.settings())
    producer._client = Failing()
    asyncio.run(producer.advance([AdvanceItem(("a", "b", "c"), STORED)]))
    assert Failing.asked == [["a", "b", "c"], ["b"]]
    assert "1 messages cannot be deleted." in caplog.text


def test_airflow_has_a_message_deleted_only_after_it_stored_the_event(queues: Queues) -> None:
    """Airflow's own manager of shared streams between the reader and two pipelines of one queue."""
    queues.send(notice("in/a.dcm"), notice("in/b.dcm"))
    settings = queues.settings(gather_seconds=1).model_dump(mode="json")
    one, other = (ArrivalsTrigger(source=f"s3://archive/{name}/", **settings) for name in ("in", "elsewhere"))
    key = one.shared_stream_key()

    async def run() -> None:
        manager = SharedStreamManager()
        streams = [
            trigger.filter_shared_stream(manager.subscribe(trigger_id=number, trigger=trigger, key=key))
            for number, trigger in enumerate((one, other))
        ]
        silent = asyncio.ensure_future(anext(streams[1]))
        event = await anext(streams[0])
        assert event.payload | {"announced": 2} == {"objects": 2, "messages": 2, "poison": 0, "announced": 2}
        seq = manager.bind_pending_event(trigger_id=0, key=key)
        further = asyncio.ensure_future(anext(streams[0]))
        await asyncio.sleep(0)  # both have asked for what comes next; the event is not stored yet
        assert await asyncio.to_thread(queues.numbers, queues.url) == (0, 2)
        manager.confirm_persisted([seq])
        await asyncio.to_thread(until, "deleted", lambda: queues.numbers(queues.url) == (0, 0), 20)
        silent.cancel()
        further.cancel()
        await manager.stop_all()

    asyncio.run(asyncio.wait_for(run(), 60))


def fired(source: str, *bodies: str) -> list[dict[str, Any]]:
    async def stream() -> Any:
        for body in bodies:
            yield arrivals.Burst((arrivals.read_notification(body),), 1)

    async def collect() -> list[dict[str, Any]]:
        trigger = ArrivalsTrigger(source=source, queue_url="http://127.0.0.1/123456789012/q")
        return [event.payload async for event in trigger.filter_shared_stream(stream())]

    return asyncio.run(collect())


def test_event_carries_counts_and_no_key() -> None:
    said = fired("s3://archive/in/", notice("in/CANARY-NAME.dcm"), notice("elsewhere/a.dcm"), notice("in/a", "other"))
    assert [one | {"announced": len(one["announced"])} for one in said] == [
        {"objects": 1, "messages": 1, "poison": 1, "announced": 1}
    ]
    assert "CANARY" not in json.dumps(said)


def test_a_run_reads_what_its_events_announced() -> None:
    event, other = (SimpleNamespace(extra={"payload": {"announced": ids}}) for ids in (["b", "a"], ["a"]))
    older = SimpleNamespace(extra={"from_trigger": True, "payload": {"objects": 1}})
    context: Any = {"triggering_asset_events": {"asset": [event, other, older]}}
    assert arrivals.read_announced(context) == ["a", "b"]
    none: Any = {}
    assert arrivals.read_announced(none) == []


@pytest.mark.parametrize(("plan_only", "gone"), [(False, 2), (True, None)])
def test_announced_objects_that_no_run_has_found_are_counted(
    plan_only: bool, gone: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: dict[str, int] = {}
    monkeypatch.setattr(buffer.Stats, "incr", lambda name, count, **_: counted.update({name: count}), raising=False)
    ledger = SimpleNamespace(count_unknown=lambda _, ids: len(ids) - 1)
    run: Any = SimpleNamespace(pipeline=pipeline(), ledger=ledger, plan_only=plan_only)
    buffer.BufferOperator(task_id="buffer", pipeline=pipeline())._count_gone(run, ["a", "b", "c"])
    assert counted.get("airlock.arrivals.gone") == gone


def test_trigger_survives_its_way_to_the_triggerer() -> None:
    settings = {"queue_url": "http://127.0.0.1/123456789012/q", "region_name": "eu-central-1", "gather_seconds": 5}
    path, kwargs = ArrivalsTrigger(source="s3://archive/in/", **settings).serialize()
    assert path == "airlock_tasks.arrivals.ArrivalsTrigger"
    assert ArrivalsTrigger(**kwargs).serialize() == (path, kwargs)


def test_pipelines_with_one_queue_share_its_reader() -> None:
    url = "http://127.0.0.1/123456789012/q"
    one, two = (ArrivalsTrigger(source=f"s3://archive/{name}/", queue_url=url) for name in "ab")
    assert one.shared_stream_key() == two.shared_stream_key()
    hash(one.shared_stream_key())


QUEUE = {"queue_url": "http://127.0.0.1/123456789012/q"}


def test_cron_and_queue_both_start_runs() -> None:
    dag = new_dag(pipeline(arrivals=QUEUE))
    assert type(dag.timetable).__name__ == "AssetOrTimeSchedule"
    assert dag.timetable.can_be_scheduled


def test_without_cron_only_the_queue_starts_runs() -> None:
    dag = new_dag(pipeline(arrivals=QUEUE, schedule={"cron": None}))
    assert type(dag.timetable).__name__ == "AssetTriggeredTimetable"


def test_asset_names_the_pipeline_and_nothing_else() -> None:
    made = pipeline(arrivals=QUEUE)
    assert made.arrivals is not None
    assert arrivals_asset(made, made.arrivals).name == "airlock-nightly-arrivals"
