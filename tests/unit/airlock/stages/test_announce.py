"""What assets are told of: chunk by chunk, again until it is marked, and each chunk whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airlock.ledger import MessageState
from airlock.records import study_key
from airlock.stages import announce
from airlock.stages.announce import LEASE, Collected, collect, mark_announced, read_chunk
from tests.unit.airlock.stages.test_route import contracts, release, released
from tests.unit.airlock.world import STORE, pipeline

if TYPE_CHECKING:
    import pytest

    from airlock.run import Run
    from tests.unit.airlock.world import World

ASSET = [{"name": "studies", "asset": {"name": "released-studies"}}]


def announced(run: Run, chunks: list[str]) -> list[set[str]]:
    """Return the studies of each chunk."""
    return [set(read_chunk(run, name).subject_keys) for name in chunks]


def keys(*uids: str) -> set[str]:
    return {study_key(uid) for uid in uids}


def states(run: Run) -> dict[MessageState, int]:
    return run.ledger.messages_by_state(run.pipeline.name).get(run.pipeline.routes[0].address(STORE), {})


def later(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    moment = datetime.now(UTC) + by
    monkeypatch.setattr("airlock.ledger.clock.database_time", lambda _: moment)


def test_a_chunk_is_marked_after_it_was_announced(world: World) -> None:
    run = released(world, ("1.1", 1, "a"), ("1.2", 1, "b"), routes=ASSET)
    found = collect(run)
    assert announced(run, found.chunks) == [keys("1.1", "1.2")]
    assert states(run) == {MessageState.PENDING: 2}
    assert mark_announced(run, found.chunks) == {"released-studies": 2}
    assert states(run) == {MessageState.SENT: 2}
    assert collect(run) == Collected([], None)


def test_a_repeat_collects_the_same_and_what_was_released_since(world: World) -> None:
    run = released(world, ("1.1", 1, "a"), routes=ASSET)
    collect(run)
    release(run, contracts(("1.2", 1, "b")))
    assert announced(run, collect(run).chunks) == [keys("1.1", "1.2")]


def test_the_next_run_announces_what_a_lost_one_did_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker was lost before Airflow took the events, or the run was deleted before the chunks were marked."""
    collect(released(world, ("1.1", 1, "a"), routes=ASSET))
    two = released(world, ("1.2", 1, "b"), run_id="two", routes=ASSET)
    assert announced(two, collect(two).chunks) == [keys("1.2")], "the first may be about to announce its own"
    later(monkeypatch, LEASE)
    assert announced(two, collect(two).chunks) == [keys("1.1", "1.2")]


def test_each_asset_has_chunks_of_its_own_and_a_subject_is_in_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "CHUNK", 2)
    both = [*ASSET, {"name": "more", "asset": {"name": "more-studies"}}]
    run = released(world, *((f"1.{number}", 1, str(number)) for number in range(3)), routes=both)
    collect(run)
    release(run, contracts(("1.0", 2, "new")))
    found = collect(run)
    assert found.chunks == ["0000", "0001", "0002", "0003"]
    chunks = [read_chunk(run, name) for name in found.chunks]
    assert [(one.asset, len(one.subject_keys)) for one in chunks] == [
        ("released-studies", 2),
        ("released-studies", 1),
        ("more-studies", 2),
        ("more-studies", 1),
    ]
    assert sum(len(one.message_ids) for one in chunks) == 8, "both revisions of 1.0, for each asset"
    assert mark_announced(run, found.chunks[:2]) == {"released-studies": 3}
    assert states(run) == {MessageState.SENT: 4}
    assert mark_announced(run, found.chunks[2:3]) == {"more-studies": 2}
    assert announced(run, collect(run).chunks) == [set(chunks[3].subject_keys)], "the other chunk was not announced"


def test_there_are_never_more_chunks_than_airflow_maps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "CHUNK", 1)
    monkeypatch.setattr(announce, "MOST_CHUNKS", 2)
    run = released(world, *((f"1.{number}", 1, str(number)) for number in range(3)), routes=ASSET)
    found = collect(run)
    assert len(found.chunks) == 2
    mark_announced(run, found.chunks)
    assert len(collect(run).chunks) == 1


def test_what_settles_is_not_announced_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    line: dict[str, Any] = {"routes": ASSET, "settle_minutes": 10}
    run = world.run("one", pipeline(**line))
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    release(run, contracts(("1.1", 1, "a")))
    found = collect(run)
    assert (found.chunks, found.pause is not None) == ([], True)
    later(monkeypatch, timedelta(minutes=11))
    assert announced(run, collect(run).chunks) == [keys("1.1")]


def test_a_pipeline_that_announces_nothing_has_no_chunk(world: World) -> None:
    assert collect(released(world, ("1.1", 1, "a"))) == Collected([], None)
