"""What the tasks route and announce do around the library: connections that are missing, assets told of nothing."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors

from airlock.run import Run
from airlock.storage.s3uri import S3Uri
from airlock_tasks.route import AnnounceOperator, RouteOperator
from tests.unit.airlock.world import pipeline

ASSETS = pipeline(routes=[{"name": name, "asset": {"name": f"{name}-studies"}} for name in ("ct", "mr")])
HOOK = pipeline(routes=[{"name": "hook", "webhook": {"conn_id": "hospital"}}])


def run(line: Any) -> Run:
    nothing: Any = None
    return Run(line, "one", None, S3Uri.parse(line.source.uri), nothing, nothing)


def announce(monkeypatch: pytest.MonkeyPatch, told: dict[str, list[str]]) -> tuple[AnnounceOperator, Any]:
    monkeypatch.setattr("airlock.stages.route.announce", lambda _: told)
    task, events = AnnounceOperator(task_id="announce", pipeline=ASSETS), OutletEventAccessors()
    context: Any = {"outlet_events": events}
    task.run_stage(run(ASSETS), context)
    return task, events


def test_each_subject_is_a_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    task, events = announce(monkeypatch, {"ct-studies": ["k1", "k2"], "mr-studies": ["k3"]})
    assert events[Asset("ct-studies")].partition_keys == {"k1", "k2"}
    assert events[Asset("mr-studies")].partition_keys == {"k3"}
    assert len(task.outlets) == 2


def test_an_asset_that_is_told_of_nothing_gets_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow makes one of each outlet, without a partition: it would start a DAG that nothing was released for."""
    task, _ = announce(monkeypatch, {"ct-studies": ["k1"], "mr-studies": []})
    assert [asset.name for asset in task.outlets] == ["ct-studies"]


def test_nothing_told_skips_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowSkipException):
        announce(monkeypatch, {"ct-studies": [], "mr-studies": []})


def test_what_was_released_is_queued_though_a_connection_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[str] = []
    monkeypatch.setattr("airlock.stages.route_queue.queue_contracts", lambda one: queued.append(one.key))
    task, opened = RouteOperator(task_id="route", pipeline=HOOK, asset=Asset("contracts")), run(HOOK)
    context: Any = {}
    with pytest.raises(AirflowFailException, match="there is no Airflow connection 'hospital'"):
        task.run_stage(opened, context)
    assert queued == [opened.key]
