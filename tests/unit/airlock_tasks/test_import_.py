"""Import keeps to the night window: a job is started inside it only, and one that runs is awaited at any time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airlock_tasks.import_ import ImportOperator
from tests.unit.airlock.world import pipeline

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(("window", "hours"), [(None, 0), ({"start": "20:00", "end": "06:00"}, 8)])
def test_a_job_is_started_when_the_window_opens(window: dict[str, str] | None, hours: int) -> None:
    task = ImportOperator(
        task_id="import", pipeline=pipeline(schedule={"import_window": window}), batch_id="b", retries=2
    )
    assert task.starts_at(NOON) == NOON + timedelta(hours=hours)
