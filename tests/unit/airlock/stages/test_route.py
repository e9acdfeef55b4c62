"""Released contracts go to every destination once, whatever fails on the way."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import polars as pl
import pytest
from botocore.config import Config

from airlock.destinations.s3 import S3Folder
from airlock.ledger.gates import GATES
from airlock.records import CONTRACTS, digest, study_key
from airlock.stages.releases import write_payloads
from airlock.stages.route import Routed, RouteError, route
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.world import STORE, pipeline

if TYPE_CHECKING:
    from airlock.destinations import Message
    from airlock.pipelines import Route
    from airlock.run import Run
    from tests.unit.airlock.world import World

NOW = {"backoff_seconds": 0}
TWO = [{"name": "first", "uri": "s3://work/first/"}, {"name": "second", "uri": "s3://work/second/"}]
DOWN = [{"name": "down", "uri": "s3://nowhere/x/", "delivery": NOW}, {"name": "up", "uri": "s3://work/up/"}]


def released(
    world: World, *contents: tuple[str, int, str], run_id: str = "one", routes: list[dict[str, Any]] = TWO
) -> Run:
    """Release contracts as settling does: study, revision, content."""
    run = world.run(run_id, pipeline(routes=routes))
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    release(run, contracts(*contents))
    return run


def contracts(*contents: tuple[str, int, str]) -> pl.DataFrame:
    rows = [
        (uid, study_key(uid), revision, digest(text), json.dumps({"content": text, "revision": revision}))
        for uid, revision, text in contents
    ]
    return pl.DataFrame(rows, schema=CONTRACTS, orient="row")


def release(run: Run, rows: pl.DataFrame) -> None:
    run.ledger.record_releases(run.pipeline.name, run.key, STORE, write_payloads(run, rows))


def routed(run: Run, **instead: S3) -> dict[str, int]:
    return route(
        run, {item.name: folder(run, item, instead.get(item.name, run.s3)) for item in run.pipeline.routes}
    ).sent


def folder(run: Run, item: Route, target: S3) -> S3Folder:
    return S3Folder(run.s3, target, S3Uri.parse(item.address(STORE)))


def content(world: World, uri: str) -> list[str]:
    return [json.loads(world.s3.get(item))["content"] for item in addresses(world, uri)]


def addresses(world: World, uri: str) -> list[S3Uri]:
    return [S3Uri.parse(uri + key) for key in world.keys(uri)]


def test_each_destination_gets_each_contract_once(world: World) -> None:
    run = released(world, ("1.1", 1, "a"), ("1.2", 3, "b"))
    assert routed(run) == {"first": 2, "second": 2}
    names = sorted(f"{STORE}/{study_key(uid)}/revision-{number:06}.json" for uid, number in (("1.1", 1), ("1.2", 3)))
    assert sorted(world.keys("s3://work/first/")) == sorted(world.keys("s3://work/second/")) == names
    assert sorted(content(world, "s3://work/first/")) == ["a", "b"]


def test_releases_are_sent_however_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlock.stages.route_queue.MATCHED_AT_A_TIME", 2)
    run = released(world, *((f"1.{number}", 1, str(number)) for number in range(5)))
    assert routed(run) == {"first": 5, "second": 5}
    assert sorted(content(world, "s3://work/second/")) == ["0", "1", "2", "3", "4"]


def test_a_second_route_sends_nothing(world: World) -> None:
    run = released(world, ("1.1", 1, "a"))
    routed(run)
    world.s3.delete("work", [item.key for item in addresses(world, "s3://work/first/")])
    assert routed(run) == {"first": 0, "second": 0}
    assert world.keys("s3://work/first/") == []


def test_another_run_with_the_same_content_sends_nothing(world: World) -> None:
    routed(released(world, ("1.1", 1, "a")))
    assert routed(released(world, ("1.1", 1, "a"), ("1.2", 1, "b"), run_id="two")) == {"first": 1, "second": 1}


def test_a_new_revision_is_sent_beside_the_old_one(world: World) -> None:
    routed(released(world, ("1.1", 1, "a")))
    assert routed(released(world, ("1.1", 2, "b"), run_id="two")) == {"first": 1, "second": 1}
    assert content(world, "s3://work/first/") == ["a", "b"]


def test_nothing_released_sends_nothing(world: World) -> None:
    assert routed(released(world)) == {"first": 0, "second": 0}


def test_without_destinations_there_is_nothing_to_do(world: World) -> None:
    assert routed(released(world, ("1.1", 1, "a"), routes=[])) == {}


def test_what_was_not_released_is_not_routed(world: World) -> None:
    """Audit may have ended before it settled, or somebody marked it as a success."""
    run = world.run()
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    run.workspace.write("contracts", CONTRACTS, contracts(("1.1", 1, "a")))
    write_payloads(run, contracts(("1.1", 1, "a")))
    assert routed(run) == {"contracts": 0}


def test_a_run_sends_what_another_one_released_that_never_came_to_route(world: World) -> None:
    one = released(world, ("1.1", 1, "a"))
    two = released(world, run_id="two")
    assert routed(two) == {"first": 1, "second": 1}
    assert two.ledger.messages_by_state(two.pipeline.name, one.key).keys() == {
        item.address(STORE) for item in two.pipeline.routes
    }, "the messages name the run that released"
    assert content(world, "s3://work/first/") == ["a"]


def test_a_run_that_an_earlier_version_settled_is_routed(world: World) -> None:
    """It wrote its contracts and its gates, and no releases."""
    run = world.run("one", pipeline(routes=TWO))
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    run.workspace.write("contracts", CONTRACTS, contracts(("1.1", 1, "a"), ("1.2", 1, "b")))
    gates = [("1.1", study_key("1.1"), "release", None), ("1.2", study_key("1.2"), "hold", "rejected")]
    run.ledger.record_gates(STORE, run.key, pl.DataFrame(gates, schema=GATES, orient="row"))
    assert routed(run) == {"first": 1, "second": 1}
    assert routed(run) == {"first": 0, "second": 0}
    assert content(world, "s3://work/second/") == ["a"]


def test_an_older_revision_that_is_released_late_is_not_sent(world: World) -> None:
    one = world.run("one", pipeline(routes=TWO))
    one.ledger.open_run(one.key, one.pipeline.name, one.run_id, None)
    routed(released(world, ("1.1", 2, "b"), run_id="two"))
    release(one, contracts(("1.1", 1, "a")))
    assert routed(one) == {"first": 0, "second": 0}
    assert content(world, "s3://work/first/") == ["b"]


def test_it_is_said_which_number_came_too_late(world: World) -> None:
    """Another pipeline has sent a later revision to the same destination."""
    routed(released(world, ("1.1", 2, "b"), routes=TWO[:1]))
    weekly = world.run("w", pipeline(name="weekly", routes=TWO[:1]))
    weekly.ledger.open_run(weekly.key, "weekly", weekly.run_id, None)
    release(weekly, contracts(("1.1", 1, "a")))
    destinations = {item.name: folder(weekly, item, weekly.s3) for item in weekly.pipeline.routes}
    done = route(weekly, destinations)
    assert (done.sent, done.overtaken) == ({"first": 0}, 1)
    assert json.loads(world.s3.get(weekly.workspace.root.join("routing.json")))["overtaken"] == 1


class TestSettling:
    SLOW = (*TWO[:1], {"name": "alarm", "uri": "s3://work/alarm/", "settle_minutes": 0})

    def run(self, world: World, *contents: tuple[str, int, str], run_id: str = "one") -> Run:
        run = world.run(run_id, pipeline(routes=self.SLOW, settle_minutes=10))
        run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
        release(run, contracts(*contents))
        return run

    def route(self, run: Run) -> Routed:
        return route(run, {item.name: folder(run, item, run.s3) for item in run.pipeline.routes})

    def test_revisions_of_some_minutes_are_one_and_an_alarm_does_not_wait(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = self.route(self.run(world, ("1.1", 1, "a")))
        assert (first.sent, first.waiting) == ({"first": 0, "alarm": 1}, {"first": 1, "alarm": 0})
        assert first.pause is not None
        assert timedelta(minutes=9) < first.pause <= timedelta(minutes=10)
        self.route(self.run(world, ("1.1", 2, "b"), run_id="two"))
        later = datetime.now(UTC) + timedelta(minutes=11)
        monkeypatch.setattr("airlock.ledger.clock.database_time", lambda _: later)
        assert self.route(self.run(world, run_id="three")).sent == {"first": 1, "alarm": 0}
        assert content(world, "s3://work/first/") == ["b"]
        assert content(world, "s3://work/alarm/") == ["a", "b"]

    def test_a_run_that_was_not_routed_in_time_settles_no_longer(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = self.run(world, ("1.1", 1, "a"))
        later = datetime.now(UTC) + timedelta(minutes=11)
        monkeypatch.setattr("airlock.ledger.clock.database_time", lambda _: later)
        assert self.route(run).sent == {"first": 1, "alarm": 1}


def test_a_content_that_returns_after_another_one_is_sent_again(world: World) -> None:
    for revision, text in enumerate("aba", start=1):
        routed(released(world, ("1.1", revision, text), run_id=f"run-{revision}"))
    assert content(world, "s3://work/first/") == ["a", "b", "a"]


def test_a_worker_that_airflow_has_lost_and_its_retry_send_a_contract_once(world: World) -> None:
    run, sent = released(world, ("1.1", 1, "a"), routes=TWO[:1]), []

    class Slow:
        """A destination that takes so long over the first message that Airflow starts the task again meanwhile."""

        def send(self, message: Message) -> None:
            sent.append(message.subject_key)
            if len(sent) == 1:
                with suppress(RouteError):  # it may say that the other try still has the message
                    route(run, {"first": self})

    route(run, {"first": Slow()})
    assert sent == [study_key("1.1")]


class TestDown:
    def test_the_others_are_served_and_the_next_try_sends_the_rest_once(self, world: World) -> None:
        run = released(world, ("1.1", 1, "a"), ("1.2", 1, "b"), routes=DOWN)
        with pytest.raises(
            RouteError,
            match=r"not delivered\. down: 2 in the outbox \(NoSuchBucket\); the next try",
        ):
            routed(run)
        assert len(world.keys("s3://work/up/")) == 2
        world.s3.client.create_bucket(Bucket="nowhere")
        assert routed(run) == {"down": 2, "up": 0}
        assert routed(run) == {"down": 0, "up": 0}
        assert sorted(content(world, "s3://nowhere/x/")) == ["a", "b"]

    def test_a_server_that_does_not_answer_is_one(self, world: World) -> None:
        run = released(world, ("1.1", 1, "a"), routes=[{"name": "dead", "uri": "s3://work/dead/", "delivery": NOW}])
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        once = Config(retries={"total_max_attempts": 1})
        dead = S3(session, session.client("s3", endpoint_url="http://127.0.0.1:9", config=once))
        with pytest.raises(RouteError, match="dead: 1 in the outbox") as info:
            routed(run, dead=dead)
        assert "1.1" not in str(info.value)
        assert routed(run) == {"dead": 1}

    def test_a_later_run_sends_what_an_earlier_one_could_not(self, world: World) -> None:
        with pytest.raises(RouteError):
            routed(released(world, ("1.1", 1, "a"), routes=DOWN))
        world.s3.client.create_bucket(Bucket="nowhere")
        assert routed(released(world, run_id="two", routes=DOWN)) == {"down": 1, "up": 0}

    def test_each_revision_arrives_with_its_own_content(self, world: World) -> None:
        """The first could not be sent; the audit was cleared and found more, then the destination came back."""
        with pytest.raises(RouteError):
            routed(released(world, ("1.1", 1, "a"), routes=DOWN))
        with pytest.raises(RouteError):
            routed(released(world, ("1.1", 2, "b"), routes=DOWN))
        world.s3.client.create_bucket(Bucket="nowhere")
        assert routed(released(world, ("1.1", 2, "b"), routes=DOWN))["down"] == 2
        found = [json.loads(world.s3.get(item)) for item in addresses(world, "s3://nowhere/x/")]
        assert found == [{"content": "a", "revision": 1}, {"content": "b", "revision": 2}]

    def test_a_payload_that_is_gone_fails_alone(self, world: World) -> None:
        with pytest.raises(RouteError):
            routed(released(world, ("1.1", 1, "a"), routes=DOWN))
        run = world.run("one", pipeline(routes=DOWN))
        world.s3.delete("work", [run.workspace.root.join("contracts", study_key("1.1"), "revision-000001.json").key])
        world.s3.client.create_bucket(Bucket="nowhere")
        with pytest.raises(RouteError, match=r"down: gave up 1 \(contract_gone\); fix the cause and requeue"):
            routed(released(world, ("1.2", 1, "b"), run_id="two", routes=DOWN))
        assert content(world, "s3://nowhere/x/") == ["b"]
