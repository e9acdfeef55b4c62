"""Released contracts go to every destination once, whatever fails on the way."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import boto3
import polars as pl
import pytest
from botocore.config import Config

from airlock.destinations.s3 import S3Folder
from airlock.records import CONTRACTS, STUDIES, digest, study_key
from airlock.stages.route import RouteError, announce, route
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import DatasetMissingError
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
    """Give a run released contracts: study, revision, content."""
    run = world.run(run_id, pipeline(routes=routes))
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    rows = [
        (uid, study_key(uid), revision, digest(text), json.dumps({"content": text, "revision": revision}))
        for uid, revision, text in contents
    ]
    run.workspace.write("contracts", CONTRACTS, pl.DataFrame(rows, schema=CONTRACTS, orient="row"))
    return run


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


def test_each_part_of_the_contracts_is_sent(world: World) -> None:
    run = released(world, *((f"1.{number}", 1, str(number)) for number in range(5)))
    contracts = run.workspace.read("contracts", CONTRACTS)
    with run.workspace.writer("contracts", CONTRACTS, part_rows=2) as writer:
        writer.add(contracts)
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


def test_what_was_not_audited_is_not_routed(world: World) -> None:
    run = world.run()
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    with pytest.raises(DatasetMissingError, match="'contracts'"):
        routed(run)


def test_only_the_contracts_dataset_is_read(world: World) -> None:
    """A draft, or a contract of a held study, lies in other datasets."""
    run = released(world, ("1.1", 1, "a"))
    drafts = pl.DataFrame([(study_key("1.9"), "1.9", "{}")], schema=STUDIES, orient="row")
    run.workspace.write("studies", STUDIES, drafts)
    assert routed(run) == {"first": 1, "second": 1}


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="C-5: a contract whose content returns is not sent")
def test_a_content_that_returns_after_another_one_is_sent_again(world: World) -> None:
    for revision, text in enumerate("aba", start=1):
        routed(released(world, ("1.1", revision, text), run_id=f"run-{revision}"))
    assert content(world, "s3://work/first/") == ["a", "b", "a"]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="H-1: told of before the task has succeeded")
def test_an_asset_is_told_by_the_next_run_of_what_a_lost_task_did_not_tell(world: World) -> None:
    to_an_asset = [{"name": "studies", "asset": {"name": "released-studies"}}]
    announce(released(world, ("1.1", 1, "a"), routes=to_an_asset))  # the worker is lost before Airflow takes the events
    told = announce(released(world, ("1.2", 1, "b"), run_id="two", routes=to_an_asset))
    assert set(told["released-studies"]) == {study_key("1.1"), study_key("1.2")}


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="M-6: a lost worker and its retry have one lease")
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
