"""What an archive and a run cost, by the prices of a pipeline file."""

from __future__ import annotations

from typing import Any

import pytest

from airlock.pipelines import PlanSettings, Prices
from airlock.stages.pages.costs import estimate_cost, estimate_run_cost
from airlock.stages.pages.migration import Share


def test_the_cost_of_what_is_left_has_the_mean_size_of_the_census() -> None:
    prices = Prices(archive_gib_month=0.5, get_per_1000=1, put_per_1000=3, currency="EUR")
    share = Share(
        "all", census=100, census_bytes=200 * 1024**3, done=50, held=0, rejected=0, left=50, done_bytes=10 * 1024**3
    )
    cost = estimate_cost(share, PlanSettings(stored_fraction=0.5, prices=prices))
    assert (cost.month_done, cost.month_left, cost.import_left, cost.currency) == (2.5, 25.0, 0.2, "EUR")
    nothing = Share("all", census=None, census_bytes=0, done=0, held=0, rejected=0, left=50, done_bytes=0)
    assert estimate_cost(nothing, PlanSettings()).month_left == 0


def test_a_run_costs_its_requests_and_the_storage_of_what_its_jobs_imported() -> None:
    prices = Prices(get_per_1000=1, put_per_1000=3, frequent_gib_month=0.5, archive_gib_month=0.25, currency="EUR")
    jobs = [{"files": 300, "bytes": 6 * 1024**3}, {"files": 200, "bytes": 2 * 1024**3}]
    report: dict[str, Any] = {"jobs": jobs, "reading": {"requests": 1500}}
    cost = estimate_run_cost(report, PlanSettings(stored_fraction=0.5, prices=prices))
    assert (cost.requests, cost.currency) == (pytest.approx(1.5 + 0.5 + 1.5), "EUR")
    assert (cost.first_month, cost.later_month) == (2.0, 1.0)
    assert estimate_run_cost({"jobs": []}, PlanSettings()).requests == 0
