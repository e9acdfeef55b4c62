"""The plan of a C-CDA pipeline, up to the conversion: what comes out of it nobody knows before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.ccda.normalize import foresee
from airlock.ccda.records import VERDICTS
from airlock.stages.plan import Plan, ResourceStorage, write
from airlock.stages.plan_figures import (
    GIB,
    Jobs,
    assumed_nights,
    assumed_prices,
    batches_of,
    cost,
    delivery,
    finding,
    found_index,
    hours,
    in_order,
    listings,
    priced,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from airlock.stages.plan import Finding, Requests


def write_plan(run: Run[CcdaPipeline]) -> tuple[Plan, str]:
    """Make the plan of a run that buffer, parse and validate have gone through as a plan; return it with its address.

    Nothing is written but ``plan.json``.
    """
    settings, prices = run.pipeline.plan, run.pipeline.plan.prices
    jobs, unpacked = Jobs(), 0
    for documents in foresee(run):
        seconds = documents.height / settings.job_documents_per_second
        jobs.add(documents["unpacked"], settings, seconds, in_place=False)
        unpacked += int(documents["is_gzip"].sum())
    price = prices.conversion_gib
    converted = None if price is None else sum(jobs.bytes) / GIB * price
    storage = ResourceStorage(billed_bytes=None, healthlake=None, copies=jobs.copied_bytes / GIB * prices.s3_gib_month)
    plan = Plan(
        **delivery(run),
        findings=in_order(_findings(run)),
        batches=batches_of(jobs),
        hours=hours(run.pipeline, settings, jobs, run.pipeline.staging.copies_in_flight),
        cost=cost(prices, _requests(run, jobs, unpacked), converted, storage),
        assumptions=tuple(_assumptions(run.pipeline)),
    )
    return write(run, plan)


def _findings(run: Run[CcdaPipeline]) -> Iterator[Finding]:
    verdicts = run.workspace.read("verdicts", VERDICTS)
    for verdict, reason, arrivals, size in (
        verdicts.group_by("verdict", "reason").agg(pl.len(), pl.col("size").sum()).iter_rows()
    ):
        yield finding(verdict, reason, arrivals=arrivals, size=size)


def _requests(run: Run[CcdaPipeline], jobs: Jobs, unpacked: int) -> Iterator[Requests]:
    index, prices = found_index(run), run.pipeline.plan.prices
    source, prefixes = listings(index, jobs, prices)
    looks = jobs.looks(run.pipeline.transformation.poll_seconds)
    yield source
    yield priced("S3 GET of documents, by parse", index.arrivals, prices.get_per_1000, made=True)
    yield priced("S3 GET of packed documents, by normalize", unpacked, prices.get_per_1000)
    yield priced("S3 COPY or PUT of documents, by normalize", jobs.copy_requests, prices.put_per_1000)
    yield prefixes
    yield priced("S3 GET of documents, by HealthLake", sum(jobs.files), prices.get_per_1000)
    yield priced("HealthLake StartDataTransformationJob", len(jobs.files), None)
    yield priced("HealthLake DescribeDataTransformationJob", looks, None)


def _assumptions(pipeline: CcdaPipeline) -> Iterator[str]:
    settings, prices = pipeline.plan, pipeline.plan.prices
    yield (
        "Resources are unknown before the conversion: its rejects, the import of what it makes, patients, and what "
        "HealthLake stores are no part of this plan."
    )
    yield assumed_prices(prices)
    if prices.conversion_gib is None:
        yield "AWS has stated no price of a conversion, a preview: set plan.prices.conversion_gib when it does."
    yield "StartDataTransformationJob and DescribeDataTransformationJob are counted; a price of theirs is not known."
    yield (
        f"A job takes {settings.job_seconds:g} s and what the slower of {settings.job_mib_per_second:g} MiB/s and "
        f"{settings.job_documents_per_second:g} documents/s makes of it: AWS states neither; correct plan by your own "
        f"jobs."
    )
    yield (
        f"{settings.concurrent_jobs} conversion job(s) at a time in the account and {settings.starts_per_second:g} "
        f"start(s) per second; no throttling, no FAILED job, and nobody else converts."
    )
    yield f"A copy takes {settings.copy_seconds:g} s, and {pipeline.staging.copies_in_flight} go on at a time."
    yield "Left out: small objects of the workspace, the job's output, KMS, CloudTrail, and Airflow's machines."
    yield from assumed_nights(pipeline)
