"""The task that starts the run of the next wave."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException

from airlock.stages import waves
from airlock_tasks.waves import NextWaveOperator
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

Found = tuple[str, dict[str, Any]] | None
NIGHT = datetime(2026, 11, 24, 2, tzinfo=UTC)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Let a run of this logical date start the wave that follows."""

    def start(date: datetime | None, following: Found = ("wave_0002__one", {"wave": 2})) -> Any:
        monkeypatch.setattr(waves, "find_next_wave", lambda _: following)
        context: Any = {"dag_run": SimpleNamespace(logical_date=date), "params": {"prefix": "in/a/", "wave": None}}
        run: Any = None
        with pytest.raises((DagRunTriggerException, AirflowSkipException)) as raised:
            NextWaveOperator(task_id="next_wave", pipeline=pipeline()).run_stage(run, context)
        return raised.value

    return start


def test_waves_follow_in_the_order_of_their_dates(start: Callable[..., Any]) -> None:
    """By them Airflow serves the earlier one first; each is of a time for which the DAG has tasks, and in the past."""
    second = start(NIGHT).logical_date
    third = start(second).logical_date
    assert NIGHT < second < third < datetime(2026, 11, 24, 2, 0, 1, tzinfo=UTC)


def test_the_waves_of_a_run_without_a_date_have_none(start: Callable[..., Any]) -> None:
    assert start(None).logical_date is None


def test_a_wave_takes_the_prefix_of_its_delivery(start: Callable[..., Any]) -> None:
    started = start(NIGHT)
    assert (started.trigger_dag_id, started.dag_run_id) == ("nightly", "wave_0002__one")
    assert started.conf == {"prefix": "in/a/", "wave": 2}


def test_nothing_follows_the_last_wave(start: Callable[..., Any]) -> None:
    assert isinstance(start(NIGHT, None), AirflowSkipException)
