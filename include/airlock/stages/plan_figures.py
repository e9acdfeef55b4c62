"""Estimate a plan's jobs, hours, requests and costs by the settings under ``plan``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airlock.reasons import SENTENCES
from airlock.records import Verdict
from airlock.stages.batches import MAX_BATCHES
from airlock.stages.buffer import Buffered, find_buffered
from airlock.stages.import_window import hours_open
from airlock.stages.plan import Batches, Cost, Finding, Hours, Requests, ResourceStorage, Storage
from airlock.storage.s3 import requests_of_copy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from airlock.pipelines import CcdaPlanSettings, ClinicalPlanSettings, Pipeline, PlanSettings, S3Prices
    from airlock.run import Run

    AnyPlanSettings = PlanSettings | ClinicalPlanSettings | CcdaPlanSettings

GIB = 1024**3
MIB = 1024**2
_PAGE = 1_000  # objects in one answer to a LIST


@dataclass
class Jobs:
    """Sums over a plan's batches; each is one job."""

    files: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    in_place: int = 0
    copied: int = 0  # number of files
    copied_bytes: int = 0
    copy_requests: int = 0
    pages: int = 0  # of a listing of each job's prefix

    def add(self, sizes: pl.Series, settings: AnyPlanSettings, counted_seconds: float, *, in_place: bool) -> None:
        """Add a job.

        Parameters
        ----------
        sizes
            The size of each of its files in bytes.
        settings
            The seconds that each job takes, and the rate by which it imports bytes.
        counted_seconds
            The seconds for the number of its files or resources; the seconds for its bytes count if they are more.
        in_place
            Whether its files are imported without a copy.
        """
        size = int(sizes.sum())
        self.files.append(len(sizes))
        self.bytes.append(size)
        self.seconds.append(settings.job_seconds + max(counted_seconds, size / (settings.job_mib_per_second * MIB)))
        self.pages += math.ceil(len(sizes) / _PAGE)
        if in_place:
            self.in_place += 1
            return
        self.copied += len(sizes)
        self.copied_bytes += size
        self.copy_requests += sum(map(requests_of_copy, sizes))

    def count_polls(self, poll_seconds: float) -> int:
        """Return how often Airlock asks for the state of the jobs."""
        return sum(1 + math.ceil(seconds / poll_seconds) for seconds in self.seconds)


def describe_delivery(run: Run[Pipeline]) -> dict[str, Any]:
    """Return the fields of a plan about its run and its delivery."""
    delivery = find_buffered(run) or Buffered()
    counts = ("listed", "settled", "claimed_elsewhere", "undated", "arrivals", "bytes")
    return {
        "schema": "airlock.plan/1",
        "pipeline": run.pipeline.name,
        "kind": run.pipeline.kind,
        "run_id": run.run_id,
        "made_at": datetime.now(UTC),
        "window": None if run.window is None else (run.window.start, run.window.end),
        "prefix": str(run.prefix),
        **{name: getattr(delivery, name) for name in counts},
    }


def make_finding(verdict: str, reason: str | None, *, arrivals: int, size: int, units: int | None = None) -> Finding:
    """Return a finding with the sentence of its reason."""
    sentence = SENTENCES[reason] if reason else None
    return Finding(
        verdict=Verdict(verdict), reason=reason, sentence=sentence, arrivals=arrivals, units=units, bytes=size
    )


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings in the order of their verdicts, and of their reasons."""
    order = list(Verdict)
    return tuple(sorted(findings, key=lambda item: (order.index(item.verdict), item.reason or "")))


def sum_batches(jobs: Jobs, *, in_waves: bool = False) -> Batches:
    """Return the number and the sizes of the jobs; those of a delivery that is taken in waves are never too many."""
    return Batches(
        jobs=len(jobs.files),
        files=sum(jobs.files),
        bytes=sum(jobs.bytes),
        most_files=max(jobs.files, default=0),
        most_bytes=max(jobs.bytes, default=0),
        in_place=jobs.in_place,
        too_many=len(jobs.files) > MAX_BATCHES and not in_waves,
    )


def estimate_hours(pipeline: Pipeline, settings: AnyPlanSettings, jobs: Jobs, copies_in_flight: int) -> Hours:
    """Return the hours of copying and importing; the strictest of three limits determines the hours of the jobs."""
    seconds, window = jobs.seconds, pipeline.schedule.import_window
    longest = max(seconds, default=0)
    bounds: dict[Any, float] = {
        "concurrent jobs": sum(seconds) / settings.concurrent_jobs,
        "job starts": max(0, len(seconds) - 1) / settings.starts_per_second + min(seconds, default=0),
        "the longest job": longest,
    }
    limit = max(bounds, key=lambda name: bounds[name])
    importing = bounds[limit] / 3600
    copying = jobs.copied * settings.copy_seconds / copies_in_flight / 3600
    return Hours(
        copies=copying,
        jobs=importing,
        total=copying + importing,
        limited_by=limit,
        nights=None if window is None else math.ceil(importing / hours_open(window)),
    )


def sum_cost(
    prices: S3Prices, requests: Iterable[Requests], imports: float | None, storage: Storage | ResourceStorage
) -> Cost:
    """Return the cost of requests, imports and storage; the sum leaves out requests of unknown cost."""
    requests = tuple(requests)
    return Cost(
        currency=prices.currency,
        region=prices.region,
        as_of=prices.as_of,
        requests=requests,
        all_requests=sum(item.cost or 0 for item in requests),
        imports=imports,
        storage=storage,
    )


def price_requests(what: str, number: int, price: float | None, *, made: bool = False) -> Requests:
    """Return requests of one kind at a price per 1,000; the price is None if it is unknown."""
    return Requests(what=what, number=number, cost=None if price is None else number / 1000 * price, made=made)


def price_listings(
    delivery: Buffered, jobs: Jobs, prices: S3Prices, staged_by: str = "normalize"
) -> tuple[Requests, Requests]:
    """Return the LIST requests of the source and of the batches' prefixes; ranges of keys take some more."""
    pages = max(1, math.ceil(delivery.listed / _PAGE))
    return (
        price_requests("S3 LIST of the source, by receive and buffer", 2 * pages, prices.put_per_1000, made=True),
        price_requests(
            f"S3 LIST of the batches' prefixes, by {staged_by} and import", 2 * jobs.pages, prices.put_per_1000
        ),
    )


def assumed_prices(prices: S3Prices) -> str:
    """Return a plan's assumption about its price table."""
    return (
        f"Prices of {prices.region}, read on {prices.as_of:%Y-%m-%d}, without free tiers. Check AWS's price page and "
        f"correct plan.prices."
    )


def assumed_nights(pipeline: Pipeline) -> Iterator[str]:
    """Yield a plan's assumption about the night window, if the pipeline has one."""
    if pipeline.schedule.import_window is not None:
        yield "A night has the hours of schedule.import_window. Copies are made outside these hours, too."
