"""Cron expressions, as Airflow reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from airlock.pipelines.cron import check_cron, next_time


@pytest.mark.parametrize("text", ["0 2 * * *", "*/5 * * * *", "@daily", "@quarterly", "@midnight", "0 2 * * 1-5 30"])
def test_one_that_airflow_takes_is_taken(text: str) -> None:
    assert check_cron(text) == text


@pytest.mark.parametrize("text", ["61 2 * * *", "0 0 31 2 *", "@once", "@never", "0 2 * * mo nday"])
def test_one_that_never_fires_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a cron expression that ever fires: write .*'0 2 \* \* \*'.*@daily"):
        check_cron(text)


def test_the_next_moment_is_local_time_across_a_clock_change() -> None:
    after = datetime(2026, 10, 24, 22, 30, tzinfo=UTC)  # 00:30 of the day on which Berlin's clocks go back
    berlin = ZoneInfo("Europe/Berlin")
    assert next_time("0 4 * * *", "Europe/Berlin", after) == datetime(2026, 10, 25, 4, tzinfo=berlin)
    assert next_time("0 4 * * *", "Europe/Berlin", after).astimezone(UTC).hour == 3
    assert next_time("@daily", "Europe/Berlin", after) == datetime(2026, 10, 26, tzinfo=berlin)
