"""The plan of an imaging pipeline."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.normalize import plan_batches
from airlock.imaging.plan_declared import ask_why, compare_declared
from airlock.imaging.reading import find_reading
from airlock.imaging.stage import find_clean_folder
from airlock.records import VERDICTS, Verdict
from airlock.stages.buffer import Buffered, find_buffered
from airlock.stages.plan import Plan, Storage, write_plan_file
from airlock.stages.plan_figures import (
    GIB,
    MIB,
    Jobs,
    assumed_nights,
    assumed_prices,
    describe_delivery,
    estimate_hours,
    make_finding,
    price_listings,
    price_requests,
    sort_findings,
    sum_batches,
    sum_cost,
)
from airlock.stages.projection import Assumed, Work, project

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import ImagingPipeline, PlanSettings, Prices
    from airlock.run import Run
    from airlock.stages.plan import Projection, Requests

_MANIFESTS = 3  # objects that audit reads of a job's output
_COLUMNS = ["verdict", "reason", "size", "StudyInstanceUID", "SeriesInstanceUID"]


@dataclass
class _Accepted:
    """Sums over the verdicts, part by part; a part has whole studies."""

    found: Counter[tuple[str, str | None]] = field(default_factory=Counter)  # arrivals by verdict and reason
    bytes: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    studies: int = 0
    series: int = 0
    billed: float = 0

    def add(self, part: pl.DataFrame, settings: PlanSettings) -> None:
        """Add a part of the verdicts."""
        for verdict, reason, arrivals, size in _by_finding(part):
            self.found[verdict, reason] += arrivals
            self.bytes[verdict, reason] += size
        accepted = part.filter(pl.col("verdict") == Verdict.ACCEPT)
        series = accepted.group_by("StudyInstanceUID", "SeriesInstanceUID").agg(pl.col("size").sum())
        stored = series.select(
            (pl.col("size") * settings.stored_fraction).clip(settings.prices.least_image_set_mib * MIB)
        )
        self.studies += series["StudyInstanceUID"].n_unique()
        self.series += series.height
        self.billed += float(stored["size"].sum())


def _by_finding(part: pl.DataFrame) -> Iterable[tuple[str, str | None, int, int]]:
    return part.group_by("verdict", "reason").agg(pl.len(), pl.col("size").sum()).iter_rows()


def write_plan(run: Run) -> tuple[Plan, str]:
    """Write ``plan.json`` from the results of buffer, parse and validate; return the plan and its address."""
    delivery, settings = find_buffered(run) or Buffered(), run.pipeline.plan
    accepted, jobs = _Accepted(), Jobs()
    for part in run.workspace.parts("verdicts", VERDICTS, _COLUMNS):
        accepted.add(part, settings)
    for files in plan_batches(run):
        in_place = run.pipeline.staging.mode == "in_place" and find_clean_folder(run, files) is not None
        jobs.add(files["size"], settings, files.height / settings.job_files_per_second, in_place=in_place)
    findings = (
        make_finding(*pair, arrivals=number, size=accepted.bytes[pair]) for pair, number in accepted.found.items()
    )
    declared = compare_declared(run)
    plan = Plan(
        **describe_delivery(run),
        findings=sort_findings(findings),
        studies=accepted.studies,
        series=accepted.series,
        declared=declared,
        questions=ask_why(run, declared),
        waves=delivery.waves,
        batches=sum_batches(jobs, in_waves=True),
        hours=estimate_hours(run.pipeline, settings, jobs, run.pipeline.staging.copies_in_flight),
        cost=sum_cost(
            settings.prices,
            _requests(run, delivery, jobs),
            sum(jobs.bytes) / GIB * settings.prices.import_gib,
            _storage(settings.prices, accepted, jobs),
        ),
        projection=_project(run, delivery, jobs),
        assumptions=tuple(_assumptions(run.pipeline)),
    )
    return write_plan_file(run, plan)


def _project(run: Run, delivery: Buffered, jobs: Jobs) -> Projection | None:
    """Return how long an archive of such objects takes, whose jobs are as full as the limits allow."""
    objects, files = run.pipeline.plan.projection.objects, sum(jobs.files)
    if objects is None or not files:
        return None
    settings, limits, size = run.pipeline.plan, run.pipeline.limits, max(1.0, sum(jobs.bytes) / files)
    per_job = max(1.0, min(limits.files_per_job, limits.bytes_per_job / size))
    seconds = max(per_job / settings.job_files_per_second, per_job * size / (settings.job_mib_per_second * MIB))
    work = Work(
        requests_per_object=find_reading(run.workspace, delivery.shards).requests / max(1, delivery.arrivals),
        copies_per_object=jobs.copied / files,
        files_per_job=per_job,
        seconds_per_job=settings.job_seconds + seconds,
    )
    most, most_bytes = run.pipeline.wave_limits
    return project(objects, work, Assumed.of(run.pipeline, wave_objects=max(1, min(most, int(most_bytes / size)))))


def _storage(prices: Prices, accepted: _Accepted, jobs: Jobs) -> Storage:
    gib = accepted.billed / GIB
    return Storage(
        image_sets=accepted.series,
        billed_bytes=math.ceil(accepted.billed),
        frequent=gib * prices.frequent_gib_month,
        archive=gib * prices.archive_gib_month,
        copies=jobs.copied_bytes / GIB * prices.s3_gib_month,
    )


def _requests(run: Run, delivery: Buffered, jobs: Jobs) -> Iterator[Requests]:
    prices, number = run.pipeline.plan.prices, len(jobs.files)
    source, prefixes = price_listings(delivery, jobs, prices, "stage")
    headers = find_reading(run.workspace, delivery.shards).requests
    looks = jobs.count_polls(run.pipeline.healthimaging.poll_seconds)
    yield source
    yield price_requests("S3 GET of headers, by parse", headers, prices.get_per_1000, made=True)
    yield price_requests("S3 COPY to the batches' prefixes, by stage", jobs.copy_requests, prices.put_per_1000)
    yield prefixes
    yield price_requests("S3 GET of whole files, by HealthImaging", sum(jobs.files), prices.get_per_1000)
    yield price_requests("S3 GET of manifests, by audit", number * _MANIFESTS, prices.get_per_1000)
    yield price_requests("HealthImaging StartDICOMImportJob", number, prices.api_per_1000)
    yield price_requests("HealthImaging GetDICOMImportJob", looks, prices.api_per_1000)


def _assumptions(pipeline: ImagingPipeline) -> Iterator[str]:
    settings, prices = pipeline.plan, pipeline.plan.prices
    yield assumed_prices(prices)
    yield (
        f"A job takes {settings.job_seconds:g} s, and the time for its bytes at {settings.job_mib_per_second:g} MiB/s "
        f"or for its files at {settings.job_files_per_second:g} per second, whichever is longer. AWS states no such "
        f"rates: correct the settings under plan by your own jobs."
    )
    yield (
        f"Jobs at a time: {settings.concurrent_jobs}. Starts per second: {settings.starts_per_second:g}. No "
        f"throttling, no FAILED job, and nobody else imports into the data store."
    )
    yield f"A copy takes {settings.copy_seconds:g} s, and {pipeline.staging.copies_in_flight} are made at a time."
    yield (
        f"HealthImaging stores {settings.stored_fraction:g} bytes for each imported byte, makes one image set of each "
        f"series, and bills at least {prices.least_image_set_mib:g} MiB and 30 days for it."
    )
    yield "HealthImaging's GETs of the files are billed to the bucket's owner. Bucket and data store are in one Region."
    yield "Left out: small objects of the workspace, S3 Inventory, KMS, HealthLake, CloudTrail, and Airflow's machines."
    yield from assumed_nights(pipeline)
