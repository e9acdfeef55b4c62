"""What storing and importing costs, by the prices of the pipeline file: estimates for pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.pipelines import PlanSettings
    from airlock.stages.pages.migration import Share

_GIB = 1024**3


@dataclass(frozen=True)
class Cost:
    """What storing and importing an archive costs."""

    currency: str
    region: str
    month_done: float  # storage of what is done, in the Archive Instant Access tier
    month_left: float  # the same of what is left
    import_left: float  # reading the header of each object that is left, and its copy


@dataclass(frozen=True)
class RunCost:
    """What a run costs."""

    currency: str
    region: str
    requests: float  # to read headers, to copy files to their batches, and to import them
    first_month: float  # storage of what was imported, in the Frequent Access tier
    later_month: float  # the same in the Archive Instant Access tier


def estimate_cost(share: Share, plan: PlanSettings) -> Cost:
    """Return what the objects of a share cost; those that are left have the mean size of the census."""
    prices = plan.prices
    month = plan.stored_fraction * prices.archive_gib_month / _GIB
    left_bytes = share.left * share.census_bytes / share.census if share.census else 0.0
    requests = (prices.get_per_1000 + prices.put_per_1000) / 1000
    return Cost(prices.currency, prices.region, share.done_bytes * month, left_bytes * month, share.left * requests)


def estimate_run_cost(report: Mapping[str, Any], plan: PlanSettings) -> RunCost:
    """Return what a run of images costs by its report; what HealthImaging bills for small image sets is not in it."""
    prices, jobs = plan.prices, report["jobs"]
    files, gib = sum(job["files"] for job in jobs), sum(job["bytes"] for job in jobs) / _GIB * plan.stored_fraction
    reads = (report.get("reading") or {}).get("requests", 0) + files
    requests = (reads * prices.get_per_1000 + files * prices.put_per_1000) / 1000
    return RunCost(
        currency=prices.currency,
        region=prices.region,
        requests=requests,
        first_month=gib * prices.frequent_gib_month,
        later_month=gib * prices.archive_gib_month,
    )
