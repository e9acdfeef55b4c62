"""The plan of a clinical pipeline: the results of validate and normalize, without a claim and without an import.

It looks references up in the data store, as a run does. It only counts the calls of $validate, since there may be as
many as there are resources.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.normalize import plan_files
from airlock.clinical.records import VERDICTS
from airlock.clinical.validate import validate
from airlock.records import ARRIVALS, Verdict, schema
from airlock.stages.buffer import Buffered, find_buffered, read_arrivals
from airlock.stages.plan import Plan, Resources, ResourceStorage, write_plan_file
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
from airlock.storage.spool import Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airlock.clinical.references import FhirStore
    from airlock.pipelines import ClinicalPipeline, HealthLakePrices
    from airlock.run import Run
    from airlock.stages.plan import Finding, Requests

_REQUESTS = "asked.json"
_LISTED = 3  # folders of a job's output that audit lists


@dataclass
class PlanStore:
    """A data store that counts its requests; it passes on reads and searches, and answers $validate itself."""

    store: FhirStore
    requests: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return a resource, or None if the store does not have it."""
        self._count("read")
        return self.store.read(resource_type, resource_id)

    def search(self, resource_type: str, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the resources that match."""
        self._count("search")
        return self.store.search(resource_type, params)

    def validate(self, resource: str) -> dict[str, Any]:  # noqa: ARG002
        """Return an OperationOutcome without issues."""
        self._count("validate")
        return {"resourceType": "OperationOutcome", "issue": []}

    def _count(self, request: str) -> None:
        with self._lock:  # validate reads in several threads
            self.requests[request] += 1


def foresee_verdicts(run: Run[ClinicalPipeline], store: FhirStore) -> dict[str, int]:
    """Decide on every unit as validate does, write the number of requests, and return the units by verdict."""
    counting = PlanStore(store)
    verdicts = validate(run, counting)
    run.workspace.write_json(_REQUESTS, counting.requests)
    return verdicts


def write_plan(run: Run[ClinicalPipeline]) -> tuple[Plan, str]:
    """Write ``plan.json`` from the results of buffer, parse and validate; return the plan and its address."""
    settings, healthlake = run.pipeline.plan, run.pipeline.healthlake
    files = plan_files(run, healthlake)
    jobs, resources = _jobs(run, files), int(files["resources"].sum())
    imported = sum(jobs.bytes) / GIB
    imports = None if settings.prices.import_gib is None else imported * settings.prices.import_gib
    plan = Plan(
        **describe_delivery(run),
        findings=sort_findings(_findings(run)),
        resources=_resources(run, files),
        batches=sum_batches(jobs),
        hours=estimate_hours(run.pipeline, settings, jobs, 1),
        cost=sum_cost(settings.prices, _requests(run, jobs, resources), imports, _storage(run, jobs)),
        assumptions=tuple(_assumptions(run)),
    )
    return write_plan_file(run, plan)


def _jobs(run: Run[ClinicalPipeline], files: pl.DataFrame) -> Jobs:
    jobs, settings = Jobs(), run.pipeline.plan
    for _, rows in files.group_by("batch", maintain_order=True):
        resources = int(rows["resources"].sum())
        jobs.add(rows["bytes"], settings, resources / settings.job_resources_per_second, in_place=False)
    return jobs


def _findings(run: Run[ClinicalPipeline]) -> Iterator[Finding]:
    """Yield what validate has found, counted; of a file that is set aside as a whole its own bytes count."""
    total = (
        pl.concat(_findings_of_files(run)).group_by("verdict", "reason").agg(pl.col("arrivals", "units", "size").sum())
    )
    for verdict, reason, arrivals, units, size in total.iter_rows():
        yield make_finding(verdict, reason, arrivals=arrivals, units=units, size=size)


def _findings_of_files(run: Run[ClinicalPipeline]) -> Iterator[pl.DataFrame]:
    """Yield arrivals, units and bytes by verdict and reason, of the files of each partition."""
    by = ["arrival_id", "verdict", "reason"]
    sums = schema(dict.fromkeys(by, pl.String), {"whole": pl.Boolean, "units": pl.Int64, "size": pl.Int64})
    parts = run.workspace.parts("verdicts", VERDICTS, [*by, "line", "size"])
    summed = (
        part.group_by(*by, whole=pl.col("line").is_null()).agg(units=pl.len().cast(pl.Int64), size=pl.col("size").sum())
        for part in parts
    )
    with Partitions(run.workspace.count_rows("verdicts")) as partitions:
        units = partitions.spool(pl.col("arrival_id"), sums, summed)
        files = partitions.spool(pl.col("arrival_id"), ARRIVALS, read_arrivals(run))
        for rows, arrivals in zip_partitions(units, files):
            size = pl.when("whole").then("size_right").otherwise("size").fill_null(0)
            both = rows.join(arrivals.select("arrival_id", "size"), on="arrival_id", how="left").with_columns(size=size)
            yield both.group_by("verdict", "reason").agg(
                pl.col("arrival_id").n_unique().cast(pl.Int64).alias("arrivals"), pl.col("units", "size").sum()
            )


def _resources(run: Run[ClinicalPipeline], files: pl.DataFrame) -> Resources:
    by_type = files.group_by("resource_type").agg(pl.col("resources").sum()).sort("resource_type")
    return Resources(
        total=int(files["resources"].sum()),
        by_type=dict(by_type.iter_rows()),
        patients=_count_patients(run),
        validation_level=run.pipeline.risk.validation_level.value,
    )


def _count_patients(run: Run[ClinicalPipeline]) -> int:
    """Return how many patients the accepted resources belong to."""
    parts = run.workspace.parts("verdicts", VERDICTS, ["verdict", "patient"])
    accepted = (
        part.filter(pl.col("verdict") == Verdict.ACCEPT).select("patient").drop_nulls().unique() for part in parts
    )
    with Partitions(run.workspace.count_rows("verdicts")) as partitions:
        patients = partitions.spool(pl.col("patient"), pl.Schema({"patient": pl.String}), accepted)
        return sum(part["patient"].n_unique() for part in patients)


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
    delivery, prices = find_buffered(run) or Buffered(), run.pipeline.plan.prices
    healthlake = run.pipeline.healthlake
    source, prefixes = price_listings(delivery, jobs, prices)
    asked, files, number = _read_requests(run), sum(jobs.files), len(jobs.files)
    read_back = min(run.pipeline.audit.read_back_sample, resources)
    yield source
    yield price_requests("S3 GET of whole files, by parse", delivery.arrivals, prices.get_per_1000, made=True)
    yield price_requests("HealthLake reads, by validate", asked["read"], prices.query_per_1000, made=True)
    yield price_requests("HealthLake searches, by validate", asked["search"], prices.query_per_1000, made=True)
    yield price_requests("HealthLake $validate, by validate", asked["validate"], prices.query_per_1000)
    yield price_requests("S3 PUT of import files, by normalize", files, prices.put_per_1000)
    yield prefixes
    yield price_requests("S3 GET of import files, by HealthLake", files, prices.get_per_1000)
    yield price_requests("S3 LIST of the jobs' output, by audit", number * _LISTED, prices.put_per_1000)
    yield price_requests("S3 GET of manifests and result files, by audit", number + files, prices.get_per_1000)
    yield price_requests("HealthLake reads, by audit", read_back, prices.query_per_1000)
    yield price_requests("HealthLake StartFHIRImportJob", number, None)
    yield price_requests("HealthLake DescribeFHIRImportJob", jobs.count_polls(healthlake.poll_seconds), None)


def _read_requests(run: Run[ClinicalPipeline]) -> Counter[str]:
    try:
        return Counter(json.loads(run.s3.get(run.workspace.root.join(_REQUESTS))))
    except FileNotFoundError:
        return Counter()


def _assumptions(run: Run[ClinicalPipeline]) -> Iterator[str]:
    settings, level = run.pipeline.plan, run.pipeline.risk.validation_level
    yield (
        f"Rejects are those that Airlock finds itself, at any level. HealthLake validates at {level} and may refuse "
        f"more, which a plan cannot foresee."
    )
    unchecked = _read_requests(run)["validate"]
    if unchecked:
        yield (
            f"validation.service_check: {run.pipeline.service_check} makes a run ask $validate about "
            f"{unchecked:,} resources. The plan did not ask, and cannot foresee the answers."
        )
    yield assumed_prices(settings.prices)
    yield from _unpriced(settings.prices)
    yield (
        f"A job takes {settings.job_seconds:g} s, and the time for its bytes at {settings.job_mib_per_second:g} MiB/s "
        f"or for its resources at {settings.job_resources_per_second:g} per second, whichever is longer. AWS states no "
        f"such rates: correct the settings under plan by your own jobs."
    )
    yield (
        f"Import jobs at a time in the account: {settings.concurrent_jobs}; others wait in its queue. Starts per "
        f"second: {settings.starts_per_second:g}. No throttling, no FAILED job, and nobody else imports."
    )
    yield f"Writing an import file takes {settings.copy_seconds:g} s, one after the other."
    yield (
        f"HealthLake stores {settings.stored_fraction:g} bytes for each imported byte, and an update as one more "
        f"version. Rewritten references change the bytes a little."
    )
    yield "Left out: the data store's hours, small objects of the workspace, KMS, CloudTrail, and Airflow's machines."
    yield from assumed_nights(run.pipeline)


def _unpriced(prices: HealthLakePrices) -> Iterator[str]:
    yield "StartFHIRImportJob and DescribeFHIRImportJob are counted, but AWS states no price for them."
    unknown = [name for name in ("import_gib", "query_per_1000", "stored_gib_month") if getattr(prices, name) is None]
    if unknown:
        yield (
            f"HealthLake has no default prices. Take those of your tier and Region from AWS's price page and set "
            f"{', '.join(f'plan.prices.{name}' for name in unknown)}."
        )
