"""What the task route does around the library: connections that are missing, and counts over its pauses."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.sdk.execution_time.context import OutletEventAccessors

from airlock.run import Run
from airlock.stages.route import Routed
from airlock.storage.s3uri import S3Uri
from airlock_tasks.route import ImagingRouteOperator, RouteOperator
from tests.unit.airlock.world import pipeline

HOOK = pipeline(routes=[{"name": "hook", "webhook": {"conn_id": "hospital"}}])
EDGE = pipeline(edge={"queue_url": "https://sqs.us-east-1.amazonaws.com/123456789012/edge", "aws_conn_id": "deleted"})
ASSET = Asset("contracts")


def run(line: Any) -> Run:
    nothing: Any = None
    return Run(line, "one", None, S3Uri.parse(line.source.uri), nothing, nothing)


def context(open_arrivals: int = 0) -> Any:
    instance = SimpleNamespace(xcom_pull=lambda task_ids: {"open_arrivals": open_arrivals}, dag_id="nightly")
    return {"ti": instance, "dag_run": SimpleNamespace(run_type="manual"), "outlet_events": OutletEventAccessors()}


def test_a_missing_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was released stays in the ledger, for the cleared task or the next run."""
    task = RouteOperator(task_id="route", pipeline=HOOK, asset=ASSET)
    with pytest.raises(AirflowFailException, match="there is no Airflow connection 'hospital'"):
        task.run_stage(run(HOOK), context())


def test_what_was_sent_before_a_pause_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlock_tasks.route.connect", lambda _: {})
    done = [
        Routed({"hook": 2}, {"hook": 1}, {"hook": 0}, 0, pause=timedelta(minutes=10)),
        Routed({"hook": 1}, {"hook": 0}, {"hook": 0}, 0),
    ]
    monkeypatch.setattr("airlock.stages.route.route", lambda *_, **__: done.pop(0))
    task, given = RouteOperator(task_id="route", pipeline=HOOK, asset=ASSET), context()
    with pytest.raises(TaskDeferred) as paused:
        task.run_stage(run(HOOK), given)
    task.kept = paused.value.trigger.event  # type: ignore[attr-defined]
    assert task.run_stage(run(HOOK), given) == {"hook": 3}
    assert given["outlet_events"][ASSET].extra["contracts"] == 3


def test_undecided_arrivals_fail_the_run_after_the_rest_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlock_tasks.route.connect", lambda _: {})
    monkeypatch.setattr("airlock.stages.route.route", lambda *_, **__: Routed({}, {}, {}, 0, overtaken=1, gone=1))
    task = RouteOperator(task_id="route", pipeline=HOOK, asset=ASSET)
    with pytest.raises(AirflowFailException, match="3 arrivals are undecided"):
        task.run_stage(run(HOOK), context(3))


def test_an_edge_whose_connection_is_missing_delays_no_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its connection the queue has no region, unless the pipeline file or the worker names one."""
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    sent: list[str] = []
    monkeypatch.setattr("airlock_tasks.route.connect", lambda _: {})
    monkeypatch.setattr("airlock.stages.route.route", lambda *_, **__: sent.append("all") or Routed({}, {}, {}, 0))
    monkeypatch.setattr("airlock_tasks.route.note_ledger", lambda _: None)
    task = ImagingRouteOperator(task_id="route", pipeline=EDGE, asset=ASSET)
    with pytest.raises(AirflowException, match=r"edge\.aws_conn_id"):
        task.run_stage(run(EDGE), context())
    assert sent == ["all"]
