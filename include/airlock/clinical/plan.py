"""The plan of a clinical pipeline: what validate and normalize would do, found without a claim and without an import.

References are looked up in the data store, as the run does it. $validate is not asked, since that may take as many
requests as there are resources; what it would be asked is counted.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.normalize import foresee
from airlock.clinical.records import VERDICTS
from airlock.clinical.validate import validate
from airlock.stages.buffer import read_arrivals
from airlock.stages.plan import Plan, Resources, ResourceStorage, write
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
    from collections.abc import Iterator, Mapping

    from airlock.clinical.references import FhirStore
    from airlock.pipelines import ClinicalPipeline, HealthLakePrices
    from airlock.run import Run
    from airlock.stages.plan import Finding, Requests

_ASKED = "asked.json"
_LISTED = 3  # folders of a job's output that audit lists


@dataclass
class PlanStore:
    """The data store as a plan sees it: reads and searches go to it and are counted, $validate is counted only."""

    store: FhirStore
    asked: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return a resource, None if there is none."""
        self._count("read")
        return self.store.read(resource_type, resource_id)

    def search(self, resource_type: str, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the resources that match."""
        self._count("search")
        return self.store.search(resource_type, params)

    def validate(self, resource: str) -> dict[str, Any]:  # noqa: ARG002
        """Return an OperationOutcome that finds nothing wrong."""
        self._count("validate")
        return {"resourceType": "OperationOutcome", "issue": []}

    def _count(self, what: str) -> None:
        with self._lock:  # reads and $validate go on in several threads
            self.asked[what] += 1


def foresee_verdicts(run: Run[ClinicalPipeline], store: FhirStore) -> dict[str, int]:
    """Decide on every unit as validate would, and keep how often the data store is asked; return units by verdict."""
    looked = PlanStore(store)
    verdicts = validate(run, looked)
    run.workspace.write_json(_ASKED, looked.asked)
    return verdicts


def write_plan(run: Run[ClinicalPipeline]) -> tuple[Plan, str]:
    """Make the plan of a run that buffer, parse and validate have gone through as a plan; return it with its address.

    Nothing is written but ``plan.json``.
    """
    settings, healthlake = run.pipeline.plan, run.pipeline.healthlake
    placed = foresee(run, healthlake)
    jobs = _jobs(run, placed)
    imported = sum(jobs.bytes) / GIB
    imports = None if settings.prices.import_gib is None else imported * settings.prices.import_gib
    plan = Plan(
        **delivery(run),
        findings=in_order(_findings(run)),
        resources=_resources(run, placed),
        batches=batches_of(jobs),
        hours=hours(run.pipeline, settings, jobs, 1),
        cost=cost(settings.prices, _requests(run, jobs, placed.height), imports, _storage(run, jobs)),
        assumptions=tuple(_assumptions(run)),
    )
    return write(run, plan)


def _jobs(run: Run[ClinicalPipeline], placed: pl.DataFrame) -> Jobs:
    jobs, settings = Jobs(), run.pipeline.plan
    for _, rows in placed.group_by("batch_id", maintain_order=True):
        files = rows.group_by("resource_type", "file", maintain_order=True).agg(pl.col("size").sum())
        jobs.add(files["size"], settings, rows.height / settings.job_resources_per_second, in_place=False)
    return jobs


def _findings(run: Run[ClinicalPipeline]) -> Iterator[Finding]:
    files = read_arrivals(run).select("arrival_id", whole="size")
    size = pl.when(pl.col("line").is_null()).then("whole").otherwise("size").fill_null(0)
    units = run.workspace.read("verdicts", VERDICTS).join(files, on="arrival_id", how="left")
    found = units.group_by("verdict", "reason").agg(pl.col("arrival_id").n_unique(), pl.len(), size.sum().alias("size"))
    for verdict, reason, arrivals, number, total in found.iter_rows():
        yield finding(verdict, reason, arrivals=arrivals, units=number, size=total)


def _resources(run: Run[ClinicalPipeline], placed: pl.DataFrame) -> Resources:
    return Resources(
        total=placed.height,
        by_type=dict(placed["resource_type"].value_counts().sort("resource_type").iter_rows()),
        patients=placed["patient"].drop_nulls().n_unique(),
        validation_level=run.pipeline.risk.validation_level.value,
    )


def _storage(run: Run[ClinicalPipeline], jobs: Jobs) -> ResourceStorage:
    settings, prices = run.pipeline.plan, run.pipeline.plan.prices
    stored = sum(jobs.bytes) * settings.stored_fraction
    price = prices.stored_gib_month
    return ResourceStorage(
        billed_bytes=math.ceil(stored),
        healthlake=None if price is None else stored / GIB * price,
        copies=jobs.copied_bytes / GIB * prices.s3_gib_month,
    )


def _requests(run: Run[ClinicalPipeline], jobs: Jobs, resources: int) -> Iterator[Requests]:
    index, prices, healthlake = found_index(run), run.pipeline.plan.prices, run.pipeline.healthlake
    source, prefixes = listings(index, jobs, prices)
    asked, files, number = _asked(run), sum(jobs.files), len(jobs.files)
    read_back = min(run.pipeline.audit.read_back_sample, resources)
    yield source
    yield priced("S3 GET of whole files, by parse", index.arrivals, prices.get_per_1000, made=True)
    yield priced("HealthLake reads, by validate", asked["read"], prices.query_per_1000, made=True)
    yield priced("HealthLake searches, by validate", asked["search"], prices.query_per_1000, made=True)
    yield priced("HealthLake $validate, by validate", asked["validate"], prices.query_per_1000)
    yield priced("S3 PUT of import files, by normalize", files, prices.put_per_1000)
    yield prefixes
    yield priced("S3 GET of import files, by HealthLake", files, prices.get_per_1000)
    yield priced("S3 LIST of the jobs' output, by audit", number * _LISTED, prices.put_per_1000)
    yield priced("S3 GET of manifests and result files, by audit", number + files, prices.get_per_1000)
    yield priced("HealthLake reads, by audit", read_back, prices.query_per_1000)
    yield priced("HealthLake StartFHIRImportJob", number, None)
    yield priced("HealthLake DescribeFHIRImportJob", jobs.looks(healthlake.poll_seconds), None)


def _asked(run: Run[ClinicalPipeline]) -> Counter[str]:
    try:
        return Counter(json.loads(run.s3.get(run.workspace.root.join(_ASKED))))
    except FileNotFoundError:
        return Counter()


def _assumptions(run: Run[ClinicalPipeline]) -> Iterator[str]:
    settings, level = run.pipeline.plan, run.pipeline.risk.validation_level
    yield (
        f"Rejects are those that Airlock finds by itself, at any level: HealthLake validates at {level}, and what it "
        f"refuses beyond them is not foreseen."
    )
    unchecked = _asked(run)["validate"]
    if unchecked:
        yield (
            f"$validate was not asked, which validation.service_check: {run.pipeline.validation.service_check} does of "
            f"{unchecked:,} resources: what it finds wrong is not foreseen."
        )
    yield assumed_prices(settings.prices)
    yield from _unpriced(settings.prices)
    yield (
        f"A job takes {settings.job_seconds:g} s and what the slower of {settings.job_mib_per_second:g} MiB/s and "
        f"{settings.job_resources_per_second:g} resources/s makes of it: AWS states neither; correct plan by your own "
        f"jobs."
    )
    yield (
        f"{settings.concurrent_jobs} import job(s) at a time in the account, where others queue, and "
        f"{settings.starts_per_second:g} start(s) per second; no throttling, no FAILED job, and nobody else imports."
    )
    yield f"Writing an import file takes {settings.copy_seconds:g} s, one after the other."
    yield (
        f"HealthLake stores {settings.stored_fraction:g} bytes for each one imported; an update is stored beside what "
        f"was there. References that have to be rewritten change the bytes a little."
    )
    yield "Left out: the data store's hours, small objects of the workspace, KMS, CloudTrail, and Airflow's machines."
    yield from assumed_nights(run.pipeline)


def _unpriced(prices: HealthLakePrices) -> Iterator[str]:
    yield "StartFHIRImportJob and DescribeFHIRImportJob are counted; a price of theirs is not known."
    unknown = [name for name in ("import_gib", "query_per_1000", "stored_gib_month") if getattr(prices, name) is None]
    if unknown:
        yield (
            f"Of HealthLake no price is assumed: take those of your tier and Region from AWS's price page and set "
            f"{', '.join(f'plan.prices.{name}' for name in unknown)}."
        )
