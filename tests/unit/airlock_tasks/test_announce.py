"""What the three tasks of announce do around the library."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow.sdk.execution_time.context import OutletEventAccessors

from airlock.stages.announce import Chunk, Collected
from airlock_tasks.announce import (
    AnnounceOperator,
    CollectAnnouncementsOperator,
    MarkAnnouncedOperator,
    add_announce_tasks,
    list_assets,
)
from tests.unit.airlock.world import pipeline
from tests.unit.airlock_tasks.test_route import run

if TYPE_CHECKING:
    from collections.abc import Mapping

ASSETS = pipeline(routes=[{"name": name, "asset": {"name": f"{name}-studies"}} for name in ("ct", "mr")])


def mark(monkeypatch: pytest.MonkeyPatch, chunks: list[str] | None, states: Mapping[str, str]) -> tuple[Any, list[str]]:
    """Return what the last task returns, and the chunks that it marks."""
    marked: list[str] = []

    def note(_: Any, names: list[str]) -> dict[str, int]:
        marked.extend(names)
        return {"ct-studies": len(names)}

    monkeypatch.setattr("airlock.stages.announce.mark_announced", note)
    instance = SimpleNamespace(
        dag_id="nightly", run_id="one", xcom_pull=lambda task_ids: chunks, get_task_states=lambda **_: {"one": states}
    )
    context: Any = {"ti": instance}
    try:
        result = MarkAnnouncedOperator(task_id="mark", pipeline=ASSETS).run_stage(run(ASSETS), context)
    except AirflowFailException as error:
        return str(error), marked
    return result, marked


def test_each_subject_of_a_chunk_is_a_partition_of_its_asset_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow makes an event of each outlet, without a partition: it would start a DAG for nothing."""
    chunk = Chunk("0000", "ct-studies", "asset:ct-studies|d", ["k1", "k2"], [1, 2])
    monkeypatch.setattr("airlock.stages.announce.read_chunk", lambda *_: chunk)
    task = AnnounceOperator(task_id="announce", pipeline=ASSETS, chunk="0000", outlets=list_assets(ASSETS))
    assert len(task.outlets) == 2
    context: Any = {"outlet_events": OutletEventAccessors()}
    assert task.run_stage(run(ASSETS), context) == 2
    assert context["outlet_events"][Asset("ct-studies")].partition_keys == {"k1", "k2"}
    assert [asset.name for asset in task.outlets] == ["ct-studies"]


def test_it_waits_for_what_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Collected([], timedelta(minutes=10)), Collected(["0000"], None)]
    monkeypatch.setattr("airlock.stages.announce.collect", lambda _: found.pop(0))
    task = CollectAnnouncementsOperator(task_id="collect", pipeline=ASSETS)
    context: Any = {"dag_run": SimpleNamespace(run_type="scheduled"), "ti": None}
    with pytest.raises(TaskDeferred):
        task.run_stage(run(ASSETS), context)
    assert task.run_stage(run(ASSETS), context) == ["0000"]


def test_chunks_that_were_announced_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"announce_0": "success", "announce_1": "success"}
    assert mark(monkeypatch, ["0000", "0001"], states) == ({"ct-studies": 2}, ["0000", "0001"])


def test_a_chunk_that_was_not_announced_fails_the_task_after_the_others_are_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error, marked = mark(monkeypatch, ["0000", "0001"], {"announce_0": "failed", "announce_1": "success"})
    assert "1 of 2 chunks were not announced" in error
    assert marked == ["0001"]


@pytest.mark.parametrize("chunks", [[], None])
def test_nothing_to_announce_skips_the_task(monkeypatch: pytest.MonkeyPatch, chunks: list[str] | None) -> None:
    with pytest.raises(AirflowSkipException):
        mark(monkeypatch, chunks, {})


def test_the_last_task_comes_whatever_became_of_the_chunks() -> None:
    with DAG("announces", schedule=None) as dag:
        first = add_announce_tasks(ASSETS)
    assert first.task_id == "collect_announcements"
    assert dag.get_task("announce").upstream_task_ids == {"collect_announcements"}
    assert dag.get_task("mark_announced").upstream_task_ids == {"announce"}
    assert dag.get_task("mark_announced").trigger_rule == "all_done"
    assert [asset.name for asset in dag.get_task("announce").outlets] == ["ct-studies", "mr-studies"]
