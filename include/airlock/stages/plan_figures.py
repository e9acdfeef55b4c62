"""The figures of a plan: jobs, hours, requests and money, by the settings under ``plan``."""

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
    """Sums over the batches, of which each is one job."""

    files: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    in_place: int = 0
    copied: int = 0  # files
    copied_bytes: int = 0
    copy_requests: int = 0
    pages: int = 0  # of one listing of every prefix

    def add(self, sizes: pl.Series, settings: AnyPlanSettings, counted_seconds: float, *, in_place: bool) -> None:
        """Add a job.

        Parameters
        ----------
        sizes
            Bytes of each of its files.
        settings
            What a job takes whatever it holds, and for its bytes.
        counted_seconds
            What it takes for the number of what it holds; the slower of the two counts.
        in_place
            Whether its files need no copy.
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

    def looks(self, poll_seconds: float) -> int:
        """Return how often the jobs are looked at."""
        return sum(1 + math.ceil(seconds / poll_seconds) for seconds in self.seconds)


def found_index(run: Run[Pipeline]) -> Buffered:
    """Return what buffer has found; nothing where it found nothing."""
    return find_buffered(run) or Buffered()


def delivery(run: Run[Pipeline]) -> dict[str, Any]:
    """Return the fields of a plan that tell of the run and its delivery, whatever travels."""
    index, counts = found_index(run), ("listed", "settled", "claimed_elsewhere", "undated", "arrivals", "bytes")
    return {
        "schema": "airlock.plan/1",
        "pipeline": run.pipeline.name,
        "kind": run.pipeline.kind,
        "run_id": run.run_id,
        "made_at": datetime.now(UTC),
        "window": None if run.window is None else (run.window.start, run.window.end),
        "prefix": str(run.prefix),
        **{name: getattr(index, name) for name in counts},
    }


def finding(verdict: str, reason: str | None, *, arrivals: int, size: int, units: int | None = None) -> Finding:
    """Return a finding with its sentence."""
    sentence = SENTENCES[reason] if reason else None
    return Finding(
        verdict=Verdict(verdict), reason=reason, sentence=sentence, arrivals=arrivals, units=units, bytes=size
    )


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings in the order of the verdicts, then of the reasons."""
    order = list(Verdict)
    return tuple(sorted(findings, key=lambda item: (order.index(item.verdict), item.reason or "")))


def batches_of(jobs: Jobs) -> Batches:
    """Return what a plan says of the jobs."""
    return Batches(
        jobs=len(jobs.files),
        files=sum(jobs.files),
        bytes=sum(jobs.bytes),
        most_files=max(jobs.files, default=0),
        most_bytes=max(jobs.bytes, default=0),
        in_place=jobs.in_place,
        too_many=len(jobs.files) > MAX_BATCHES,
    )


def hours(pipeline: Pipeline, settings: AnyPlanSettings, jobs: Jobs, copies_in_flight: int) -> Hours:
    """Return how long it takes: the longest of what the jobs' starts, their number at a time and the longest take."""
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


def cost(prices: S3Prices, made: Iterable[Requests], imports: float | None, storage: Storage | ResourceStorage) -> Cost:
    """Return what requests, imports and storage cost by a price table."""
    requests = tuple(made)
    return Cost(
        currency=prices.currency,
        region=prices.region,
        as_of=prices.as_of,
        requests=requests,
        all_requests=sum(item.cost or 0 for item in requests),
        imports=imports,
        storage=storage,
    )


def priced(what: str, number: int, price: float | None, *, made: bool = False) -> Requests:
    """Return requests of one sort at a price per 1,000, None where there is none."""
    return Requests(what=what, number=number, cost=None if price is None else number / 1000 * price, made=made)


def listings(index: Buffered, jobs: Jobs, prices: S3Prices) -> tuple[Requests, Requests]:
    """Return the LIST requests of the source and of the batches' prefixes."""
    pages = max(1, math.ceil(index.listed / _PAGE))
    return (
        priced("S3 LIST of the source, by receive and buffer", 2 * pages, prices.put_per_1000, made=True),
        priced("S3 LIST of the batches' prefixes, by normalize and import", 2 * jobs.pages, prices.put_per_1000),
    )


def assumed_prices(prices: S3Prices) -> str:
    """Return what a plan assumes of the price table."""
    return (
        f"Prices of {prices.region}, read on {prices.as_of:%Y-%m-%d}, without free tiers: check AWS's price page and "
        f"correct plan.prices."
    )


def assumed_nights(pipeline: Pipeline) -> Iterator[str]:
    """Yield what a plan assumes of the night window, where the pipeline has one."""
    if pipeline.schedule.import_window is not None:
        yield "A night has the hours of schedule.import_window, and copies are made outside them too."
