"""How long a task waits for releases that settle, and for whom it does not wait."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airlock_tasks.settling import SettlingOperator
from tests.unit.airlock.world import pipeline

ROUTES = [{"name": "slow", "uri": "s3://work/slow/", "settle_minutes": 20}, {"name": "fast", "uri": "s3://work/fast/"}]
WOKEN = {"queue_url": "https://sqs.us-east-1.amazonaws.com/123456789012/arrivals"}


class Waits(SettlingOperator):
    def run_stage(self, run: Any, context: Any) -> Any:
        """Do nothing: the tests ask only how long it may wait."""


def task(**changes: Any) -> Waits:
    return Waits(task_id="route", pipeline=pipeline(**{"routes": ROUTES, "settle_minutes": 10, **changes}))


def context(run_type: str = "scheduled", *, queued: int = 0) -> Any:
    instance = SimpleNamespace(dag_id="nightly", get_dr_count=lambda dag_id, states: queued)
    return {"dag_run": SimpleNamespace(run_type=run_type), "ti": instance}


def test_it_waits_as_long_as_its_slowest_route_and_a_lost_try_need() -> None:
    waits = task()
    assert waits.may_wait(context())
    left = waits.pause(timedelta(minutes=10)).trigger.event["deadline"] - time.time()  # type: ignore[attr-defined]
    assert 20 * 60 < left <= 20 * 60 + 300
    waits.kept = {"deadline": time.time() - 1}
    assert not waits.may_wait(context())


def test_the_end_of_the_wait_is_that_of_the_first_pause() -> None:
    waits = task()
    waits.kept = {"deadline": time.time() + 5}
    assert waits.pause(timedelta(seconds=1)).trigger.event == waits.kept  # type: ignore[attr-defined]


def test_it_looks_again_after_a_minute_at_most() -> None:
    for pause, longest in ((timedelta(minutes=10), 60), (timedelta(seconds=1), 1.1)):
        until = task().pause(pause).trigger.until  # type: ignore[attr-defined]
        assert until == pytest.approx(time.time() + longest, abs=0.5)


@pytest.mark.parametrize(
    ("changes", "run_type", "queued", "waits"),
    [
        ({}, "scheduled", 1, True),
        ({}, "backfill", 0, True),
        ({}, "backfill", 1, False),
        ({"arrivals": WOKEN}, "asset_triggered", 0, True),
        ({"arrivals": WOKEN}, "asset_triggered", 1, False),
    ],
)
def test_a_run_that_was_woken_or_backfills_leaves_its_slot_to_the_next(
    changes: dict[str, Any], run_type: str, queued: int, waits: bool
) -> None:
    assert task(**changes).may_wait(context(run_type, queued=queued)) is waits
