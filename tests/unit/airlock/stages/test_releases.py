"""The payloads of releases: written before the ledger says so, and removed if it never does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airlock.records import study_key
from airlock.stages.releases import remove_unreleased_payloads, write_payloads
from airlock.stages.route import route
from airlock.storage.s3 import S3
from tests.unit.airlock.stages.test_route import contracts, release, released

if TYPE_CHECKING:
    import pytest

    from airlock.run import Run
    from tests.unit.airlock.world import World


def payloads(world: World, run: Run) -> list[str]:
    return sorted(world.keys(str(run.workspace.root.join("contracts", ""))))


def name(uid: str, revision: int = 1) -> str:
    return f"{study_key(uid)}/revision-{revision:06}.json"


def test_a_payload_is_the_contract_under_its_subject_and_revision(world: World) -> None:
    run = released(world)
    messages = write_payloads(run, contracts(("1.1", 2, "a")))
    (row,) = messages.rows(named=True)
    assert (row["subject_key"], row["revision"]) == (study_key("1.1"), 2)
    assert row["payload_uri"].endswith(name("1.1", 2))
    assert json.loads(world.s3.get(run.workspace.root.join("contracts", name("1.1", 2))))["content"] == "a"


def test_what_a_settling_left_that_broke_off_is_removed(world: World) -> None:
    run = released(world, ("1.1", 1, "a"))
    write_payloads(run, contracts(("1.1", 2, "b"), ("1.2", 1, "c")))  # then the worker was lost
    assert remove_unreleased_payloads(run) == 2
    assert payloads(world, run) == [name("1.1")]
    assert remove_unreleased_payloads(run) == 0


def test_what_may_not_be_deleted_stays_and_the_run_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = released(world)
    write_payloads(run, contracts(("1.2", 1, "c")))

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(S3, "delete", refuse)
    assert remove_unreleased_payloads(run) == 0
    assert "1 contracts that were not released stay in the workspace (PermissionError)" in caplog.text


def test_what_is_on_its_way_stays(world: World) -> None:
    """A later run has released a later revision; the earlier one waits for a destination."""
    run = released(world, ("1.1", 1, "a"))
    route(run, {})
    released(world, ("1.1", 2, "b"), run_id="two")
    assert remove_unreleased_payloads(run) == 0
    assert payloads(world, run) == [name("1.1")]


def test_a_payload_that_a_later_run_has_replaced_unsent_is_removed(world: World) -> None:
    run = released(world, ("1.1", 1, "a"))
    release(world.run("one", run.pipeline), contracts(("1.1", 2, "b")))
    assert remove_unreleased_payloads(run) == 1
    assert payloads(world, run) == [name("1.1", 2)]


def test_datasets_beside_the_payloads_stay(world: World) -> None:
    run = released(world)
    world.put(str(run.workspace.root.join("contracts", "_COMMITTED.json")))
    world.put(str(run.workspace.root.join("contracts", "part-00000-0123.parquet")))
    assert remove_unreleased_payloads(run) == 0
    assert len(payloads(world, run)) == 2
