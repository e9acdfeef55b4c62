"""The plan of a C-CDA pipeline, up to the conversion, since resources are unknown before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.ccda.normalize import plan_batches
from airlock.ccda.records import VERDICTS
from airlock.stages.buffer import Buffered, find_buffered
from airlock.stages.plan import Plan, ResourceStorage, write_plan_file
from airlock.stages.plan_figures import (
    GIB,
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
from airlock.stages.plan import Finding, Requests


def write_plan(run: Run[CcdaPipeline]) -> tuple[Plan, str]:
    """Write ``plan.json`` from the results of buffer, parse and validate; return the plan and its address."""
    settings, prices = run.pipeline.plan, run.pipeline.plan.prices
    jobs, unpacked = Jobs(), 0
    for documents in plan_batches(run):
        seconds = documents.height / settings.job_documents_per_second
        jobs.add(documents["unpacked"], settings, seconds, in_place=False)
        unpacked += int(documents["is_gzip"].sum())
    price = prices.conversion_gib
    converted = None if price is None else sum(jobs.bytes) / GIB * price
    storage = ResourceStorage(billed_bytes=None, healthlake=None, copies=jobs.copied_bytes / GIB * prices.s3_gib_month)
    plan = Plan(
        **describe_delivery(run),
        findings=sort_findings(_make_findings(run)),
        batches=sum_batches(jobs),
        hours=estimate_hours(run.pipeline, settings, jobs, run.pipeline.staging.copies_in_flight),
        cost=sum_cost(prices, _price_requests(run, jobs, unpacked), converted, storage),
        assumptions=tuple(_list_assumptions(run.pipeline)),
    )
    return write_plan_file(run, plan)


def _make_findings(run: Run[CcdaPipeline]) -> Iterator[Finding]:
    sums = (pl.col("arrivals").sum(), pl.col("size").sum())
    parts = run.workspace.parts("verdicts", VERDICTS, ["verdict", "reason", "size"])
    counted = [part.with_columns(arrivals=1).group_by("verdict", "reason").agg(sums) for part in parts]
    for verdict, reason, arrivals, size in pl.concat(counted).group_by("verdict", "reason").agg(sums).iter_rows():
        yield make_finding(verdict, reason, arrivals=arrivals, size=size)


def _price_requests(run: Run[CcdaPipeline], jobs: Jobs, unpacked: int) -> Iterator[Requests]:
    delivery, prices = find_buffered(run) or Buffered(), run.pipeline.plan.prices
    source, prefixes = price_listings(delivery, jobs, prices)
    looks = jobs.count_polls(run.pipeline.transformation.poll_seconds)
    yield source
    yield price_requests("S3 GET of documents, by parse", delivery.arrivals, prices.get_per_1000, made=True)
    yield price_requests("S3 GET of packed documents, by normalize", unpacked, prices.get_per_1000)
    yield price_requests("S3 COPY or PUT of documents, by normalize", jobs.copy_requests, prices.put_per_1000)
    yield prefixes
    yield price_requests("S3 GET of documents, by HealthLake", sum(jobs.files), prices.get_per_1000)
    yield price_requests("HealthLake StartDataTransformationJob", len(jobs.files), None)
    yield price_requests("HealthLake DescribeDataTransformationJob", looks, None)


def _list_assumptions(pipeline: CcdaPipeline) -> Iterator[str]:
    settings, prices = pipeline.plan, pipeline.plan.prices
    yield (
        "Resources are unknown before the conversion. Its rejects, the import of its resources, their patients and "
        "their storage in HealthLake are not part of this plan."
    )
    yield assumed_prices(prices)
    if prices.conversion_gib is None:
        yield "AWS states no price for a conversion, which is a preview. Set plan.prices.conversion_gib when it does."
    yield "StartDataTransformationJob and DescribeDataTransformationJob are counted, but AWS states no price for them."
    yield (
        f"A job takes {settings.job_seconds:g} s, and the time for its bytes at {settings.job_mib_per_second:g} MiB/s "
        f"or for its documents at {settings.job_documents_per_second:g} per second, whichever is longer. AWS states no "
        f"such rates: correct the settings under plan by your own jobs."
    )
    yield (
        f"Conversion jobs at a time in the account: {settings.concurrent_jobs}. Starts per second: "
        f"{settings.starts_per_second:g}. No throttling, no FAILED job, and nobody else converts."
    )
    yield f"A copy takes {settings.copy_seconds:g} s, and {pipeline.staging.copies_in_flight} are made at a time."
    yield "Left out: small objects of the workspace, the job's output, KMS, CloudTrail, and Airflow's machines."
    yield from assumed_nights(pipeline)
