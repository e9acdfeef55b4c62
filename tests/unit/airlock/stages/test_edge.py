"""The edge is told in messages that SQS takes, about its own objects only, and again until a queue has taken them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.destinations import DestinationError
from airlock.records import DISPOSITIONS, arrival_id
from airlock.stages import edge
from airlock.stages.edge import Told, is_of_edge, keep_edge, tell_edge, write_messages
from tests.unit.airlock.ledger.samples import arrivals
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from airlock.run import Run
    from tests.unit.airlock.world import World

EDGE = {"queue_url": "https://sqs.us-east-1.amazonaws.com/123456789012/edge"}
FOLDER = "north/2026-11-24/0123456789abcdef"


class Queue:
    """A queue that refuses after a number of messages."""

    def __init__(self, takes: int = 1_000) -> None:
        self.takes = takes
        self.bodies: list[str] = []

    def put(self, body: str) -> None:
        if len(self.bodies) == self.takes:
            raise DestinationError("NonExistentQueue", retryable=True)
        self.bodies.append(body)

    @property
    def objects(self) -> dict[str, str]:
        return {one["key"]: one["state"] for body in self.bodies for one in json.loads(body)["objects"]}


def name(number: int) -> str:
    return f"{FOLDER}/{number:016x}.dcm"


def settled(world: World, *names: str, reason: str = "truncated", **changes: Any) -> Run:
    """Let a run with an edge settle objects as quarantined."""
    run = world.run("one", pipeline(**{"edge": EDGE} | changes))
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    keep_edge(run)
    run.ledger.claim(run.pipeline.name, run.key, arrivals(*names))
    word = None, None, None, "quarantined", "parse", reason, None, None, None, None
    rows = [(arrival_id("archive", f"in/{one}", None, f"etag-{one}", 100), f"in/{one}", 100, *word) for one in names]
    run.ledger.settle(run.pipeline.name, run.key, pl.DataFrame(rows, DISPOSITIONS, orient="row"))
    return run


def test_the_edge_gets_key_state_and_reason(world: World) -> None:
    queue = Queue()
    assert tell_edge(settled(world, name(1)), queue) == Told(objects=1)
    (body,) = queue.bodies
    assert json.loads(body) == {
        "schema": "airlock.told/1",
        "pipeline": "nightly",
        "objects": [
            {"bucket": "archive", "key": f"in/{name(1)}", "state": "failed", "disposition": "quarantined"}
            | {"reason": "truncated", "order": [1, 1]}
        ],
    }


def test_what_was_told_is_not_told_again(world: World) -> None:
    run, queue = settled(world, name(1)), Queue()
    tell_edge(run, queue)
    assert tell_edge(run, queue) == Told()
    assert len(queue.bodies) == 1


def test_nothing_is_told_of_what_a_later_run_takes_again(world: World) -> None:
    run, queue = settled(world, name(1), reason="access_denied"), Queue()
    assert tell_edge(run, queue) == Told()
    assert queue.bodies == []
    assert run.ledger.count_untold("nightly").objects == 0


def test_keys_that_no_edge_has_given_are_never_sent(world: World) -> None:
    queue = Queue()
    others = (f"{FOLDER}/delivery.json", "MUELLER^HANS/1.dcm", f"{FOLDER}/IM0001.dcm", f"x/{name(2)}")
    assert tell_edge(settled(world, name(1), *others), queue) == Told(objects=1, others=3)
    assert list(queue.objects) == [f"in/{name(1)}"]


@pytest.mark.parametrize(
    ("source", "key", "is_of"),
    [
        ("in/", f"in/{name(1)}", True),
        ("in/north/", f"in/{name(1)}", True),
        ("", name(1), True),
        ("in/", "in/north/2026-11-24/no-study/0123456789abcdef0123456789abcdef.dcm", True),
        ("other/", f"in/{name(1)}", False),
        ("in/", f"in/{name(1)}x", False),
        ("in/", f"in/North/{name(1)}", False),
        ("in/", f"in/{name(1).replace('2026-11-24', '20261124')}", False),
    ],
)
def test_the_edge_is_known_by_the_form_of_its_keys(source: str, key: str, *, is_of: bool) -> None:
    assert is_of_edge(source, key) is is_of


def test_a_queue_that_refuses_gets_the_rest_with_the_next_try(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "AT_A_TIME", 2)
    run = settled(world, *map(name, range(5)))
    assert tell_edge(run, Queue(takes=1)) == Told(objects=2, error="NonExistentQueue")
    assert run.ledger.count_untold(run.pipeline.name).objects == 3
    queue = Queue()
    assert tell_edge(run, queue) == Told(objects=3)
    assert len(queue.objects) == 3


def test_many_objects_are_told_in_messages_that_sqs_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "MESSAGE_BYTES", 1_000)
    objects = [{"key": f"in/{name(number)}", "state": "released"} for number in range(100)]
    bodies = list(write_messages("nightly", objects))
    assert [one for body in bodies for one in json.loads(body)["objects"]] == objects
    assert 900 < max(map(len, bodies)) <= 1_000


def test_nothing_to_tell_is_no_message() -> None:
    assert list(write_messages("nightly", [])) == []


def test_a_pipeline_without_the_section_tells_nothing_any_more(world: World) -> None:
    run = settled(world, name(1))
    without = world.run("two", pipeline())
    keep_edge(without)
    assert run.ledger.find_edge("nightly") is None
    assert run.ledger.count_untold("nightly").objects == 0


def test_the_edge_needs_a_queue_of_its_own() -> None:
    with pytest.raises(ValueError, match="give the edge a queue of its own"):
        pipeline(edge=EDGE, arrivals=EDGE)
