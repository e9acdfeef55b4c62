"""A plan: what a run would do, found by the same run stopped after normalize, which claims and imports nothing.

A plan's datasets lie in the folder ``plan`` of the run's workspace, and ``plan/plan.json`` is the plan itself, schema
``airlock.plan/1``; ``json_schema()`` is published as docs/plan.schema.json. docs/planning.md says how it reckons.

Here is what plans of all kinds have in common, and that of images; ``airlock.clinical.plan`` and ``airlock.ccda.plan``
make the others.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from airlock.imaging.normalize import foresee
from airlock.imaging.reading import find as find_reading
from airlock.reasons import SENTENCES
from airlock.records import VERDICTS, Verdict
from airlock.run import PLAN, run_key
from airlock.stages.batches import MAX_BATCHES
from airlock.stages.buffer import Buffered, find_buffered
from airlock.stages.import_window import hours_open
from airlock.storage.s3 import requests_of_copy
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import (
        CcdaPlanSettings,
        ClinicalPlanSettings,
        ImagingPipeline,
        Pipeline,
        PlanSettings,
        Prices,
        S3Prices,
    )
    from airlock.run import Run
    from airlock.storage.s3 import S3

    AnyPlanSettings = PlanSettings | ClinicalPlanSettings | CcdaPlanSettings

NAME = "plan.json"
GIB = 1024**3
_MIB = 1024**2
_PAGE = 1_000  # objects in one answer to a LIST
_MANIFESTS = 3  # objects that audit reads of a job's output
_JOBS = {
    "imaging": "batches, one import job each",
    "clinical": "batches, one import job each",
    "ccda": "batches, one conversion job each",
}
_COLUMNS = ["verdict", "reason", "size", "StudyInstanceUID", "SeriesInstanceUID"]


class PlanMissingError(LookupError):
    """A run has left no plan."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Finding(_Part):
    """What validate says of some of the arrivals."""

    verdict: Verdict
    reason: str | None = Field(description="a reason code, docs/reasons.md; null for none")
    sentence: str | None = Field(description="what to do about it")
    arrivals: int = Field(description="of a clinical pipeline: files with such a unit; one may be in several findings")
    units: int | None = Field(
        None, description="of a clinical pipeline: resources, lines that are none, and files as a whole; else null"
    )
    bytes: int = Field(description="of the arrivals; of a clinical pipeline, of the resources and of files as a whole")


class Resources(_Part):
    """The FHIR resources that are to be imported."""

    total: int
    by_type: dict[str, int] = Field(description="by resourceType")
    patients: int = Field(description="to whom they belong")
    validation_level: str = Field(description="that HealthLake is asked for; what it refuses by itself is not foreseen")


class Batches(_Part):
    """The import jobs; of a ccda pipeline, the conversion jobs."""

    jobs: int
    files: int = Field(description="DICOM files, import files or documents")
    bytes: int
    most_files: int = Field(description="in one job")
    most_bytes: int = Field(description="in one job")
    in_place: int = Field(description="jobs that need no copy")
    too_many: bool = Field(description="more than one run maps: take it in by smaller windows or prefixes")


class Hours(_Part):
    """How long staging and import take, by the settings under ``plan``."""

    copies: float = Field(description="of copying files, or writing import files, to the batches' prefixes")
    jobs: float
    total: float
    limited_by: Literal["job starts", "concurrent jobs", "the longest job"] = Field(description="what makes jobs wait")
    nights: int | None = Field(description="with schedule.import_window, how many of them the jobs need")


class Requests(_Part):
    """Requests of one sort."""

    what: str
    number: int
    cost: float | None = Field(description="null where the pipeline names no price")
    made: bool = Field(description="whether the plan itself has made as many; the run makes them once more")


class Storage(_Part):
    """What is stored, and what it costs per month."""

    image_sets: int = Field(description="one per series, as HealthImaging makes them of consistent files")
    billed_bytes: int = Field(description="with the least size of an image set")
    frequent: float = Field(description="per month, all of it in the Frequent Access tier: the first month at least")
    archive: float = Field(description="per month, all of it in the Archive Instant Access tier")
    copies: float = Field(description="per month, while the batches' copies lie in S3")


class ResourceStorage(_Part):
    """What is stored of a clinical or a ccda pipeline, and what it costs per month."""

    billed_bytes: int | None = Field(description="in HealthLake, before its allowance; null before a conversion")
    healthlake: float | None = Field(description="per month; null where the pipeline names no price")
    copies: float = Field(description="per month, while import files or documents lie below the batches' prefixes")


class Cost(_Part):
    """Money, by the price table of the pipeline."""

    currency: str
    region: str
    as_of: date = Field(description="the day of the price table: check AWS's price page")
    requests: tuple[Requests, ...]
    all_requests: float = Field(description="those with a price")
    imports: float | None = Field(description="of a ccda pipeline, conversions; null where the pipeline names no price")
    storage: Storage | ResourceStorage


class Plan(_Part):
    """What a run would do, by what lies there now and what the ledger knows now."""

    version: Literal["airlock.plan/1"] = Field("airlock.plan/1", alias="schema")
    pipeline: str
    kind: Literal["imaging", "clinical", "ccda"] = Field("imaging", description="of the pipeline")
    run_id: str
    made_at: datetime
    window: tuple[datetime, datetime] | None = Field(description="null: whatever lies below the prefix")
    prefix: str
    listed: int = Field(description="objects below the prefix, whatever their window")
    settled: int = Field(description="in the window, but settled by earlier runs")
    claimed_elsewhere: int = Field(description="in the window, but held by other runs now")
    undated: int = Field(description="without the date in their key that source.window: key_date asks for")
    arrivals: int
    bytes: int
    findings: tuple[Finding, ...] = Field(
        description="every arrival is in one of them; of a clinical pipeline every unit"
    )
    studies: int | None = Field(None, description="with at least one accepted file; null where no images travel")
    series: int | None = Field(None, description="with at least one accepted file; null where no images travel")
    resources: Resources | None = Field(
        None, description="of a clinical pipeline; of a ccda pipeline they are unknown before the conversion: null"
    )
    batches: Batches
    hours: Hours
    cost: Cost
    assumptions: tuple[str, ...]

    def to_json(self) -> str:
        """Return the plan as it is written."""
        return self.model_dump_json(by_alias=True, indent=1)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``plan.json``."""
    return Plan.model_json_schema(by_alias=True, mode="serialization")


def write_plan(run: Run) -> tuple[Plan, str]:
    """Make the plan of a run that buffer, parse and validate have gone through as a plan; return it with its address.

    Nothing is written but ``plan.json``.
    """
    return write(run, _make(run))


def write(run: Run[Any], plan: Plan) -> tuple[Plan, str]:
    """Write a plan where `read_plan` finds it; return it with its address."""
    where = run.workspace.root.join(NAME)
    run.s3.put(where, plan.to_json().encode(), "application/json")
    return plan, str(where)


def read_plan(s3: S3, pipeline: Pipeline, run_id: str) -> Plan:
    """Return the plan that a run with ``plan_only`` has left.

    Parameters
    ----------
    s3
        Where the pipeline's workspace is.
    pipeline
        Whose run it was.
    run_id
        Airflow's id of the DAG run.

    Raises
    ------
    PlanMissingError
        If there is none.
    """
    key = run_key(pipeline.name, run_id)
    try:
        content = s3.get(S3Uri.parse(pipeline.workspace).join(pipeline.name, key, PLAN, NAME))
    except FileNotFoundError:
        raise PlanMissingError(
            f"run {run_id!r} of pipeline {pipeline.name!r} has left no plan: start it with plan_only, and wait until "
            f"its task normalize has ended"
        ) from None
    return Plan.model_validate_json(content)


@dataclass
class _Accepted:
    """Sums over the verdicts; studies are whole in a part."""

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
            (pl.col("size") * settings.stored_fraction).clip(settings.prices.least_image_set_mib * _MIB)
        )
        self.studies += series["StudyInstanceUID"].n_unique()
        self.series += series.height
        self.billed += float(stored["size"].sum())


def _by_finding(part: pl.DataFrame) -> Iterable[tuple[str, str | None, int, int]]:
    return part.group_by("verdict", "reason").agg(pl.len(), pl.col("size").sum()).iter_rows()


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
        self.seconds.append(settings.job_seconds + max(counted_seconds, size / (settings.job_mib_per_second * _MIB)))
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


def _make(run: Run) -> Plan:
    index, settings = found_index(run), run.pipeline.plan
    accepted, jobs = _Accepted(), Jobs()
    for part in run.workspace.parts("verdicts", VERDICTS, _COLUMNS):
        accepted.add(part, settings)
    for files, in_place in foresee(run):
        jobs.add(files["size"], settings, files.height / settings.job_files_per_second, in_place=in_place)
    findings = (finding(*pair, arrivals=number, size=accepted.bytes[pair]) for pair, number in accepted.found.items())
    return Plan(
        **delivery(run),
        findings=in_order(findings),
        studies=accepted.studies,
        series=accepted.series,
        batches=batches_of(jobs),
        hours=hours(run.pipeline, settings, jobs, run.pipeline.staging.copies_in_flight),
        cost=cost(
            settings.prices,
            _requests(run, index, jobs),
            sum(jobs.bytes) / GIB * settings.prices.import_gib,
            _storage(settings.prices, accepted, jobs),
        ),
        assumptions=tuple(_assumptions(run.pipeline)),
    )


def found_index(run: Run[Any]) -> Buffered:
    """Return what buffer has found; nothing where it found nothing."""
    return find_buffered(run) or Buffered()


def delivery(run: Run[Any]) -> dict[str, Any]:
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


def _storage(prices: Prices, accepted: _Accepted, jobs: Jobs) -> Storage:
    gib = accepted.billed / GIB
    return Storage(
        image_sets=accepted.series,
        billed_bytes=math.ceil(accepted.billed),
        frequent=gib * prices.frequent_gib_month,
        archive=gib * prices.archive_gib_month,
        copies=jobs.copied_bytes / GIB * prices.s3_gib_month,
    )


def _requests(run: Run, index: Buffered, jobs: Jobs) -> Iterator[Requests]:
    prices, number = run.pipeline.plan.prices, len(jobs.files)
    source, prefixes = listings(index, jobs, prices)
    headers = find_reading(run.workspace, index.shards).requests
    looks = jobs.looks(run.pipeline.healthimaging.poll_seconds)
    yield source
    yield priced("S3 GET of headers, by parse", headers, prices.get_per_1000, made=True)
    yield priced("S3 COPY to the batches' prefixes, by normalize", jobs.copy_requests, prices.put_per_1000)
    yield prefixes
    yield priced("S3 GET of whole files, by HealthImaging", sum(jobs.files), prices.get_per_1000)
    yield priced("S3 GET of manifests, by audit", number * _MANIFESTS, prices.get_per_1000)
    yield priced("HealthImaging StartDICOMImportJob", number, prices.api_per_1000)
    yield priced("HealthImaging GetDICOMImportJob", looks, prices.api_per_1000)


def _assumptions(pipeline: ImagingPipeline) -> Iterator[str]:
    settings, prices = pipeline.plan, pipeline.plan.prices
    yield assumed_prices(prices)
    yield (
        f"A job takes {settings.job_seconds:g} s and what the slower of {settings.job_mib_per_second:g} MiB/s and "
        f"{settings.job_files_per_second:g} files/s makes of it: AWS states neither; correct plan by your own jobs."
    )
    yield (
        f"{settings.concurrent_jobs} jobs at a time and {settings.starts_per_second:g} start(s) per second; no "
        f"throttling, no FAILED job, and nobody else imports into the data store."
    )
    yield f"A copy takes {settings.copy_seconds:g} s, and {pipeline.staging.copies_in_flight} go on at a time."
    yield (
        f"HealthImaging stores {settings.stored_fraction:g} bytes for each one imported, makes one image set of a "
        f"series, and bills each as {prices.least_image_set_mib:g} MiB at least, for 30 days at least."
    )
    yield "Its GETs of the files are billed to the bucket's owner; bucket and data store are in one Region."
    yield "Left out: small objects of the workspace, S3 Inventory, KMS, HealthLake, CloudTrail, and Airflow's machines."
    yield from assumed_nights(pipeline)


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


def table(plan: Plan) -> str:
    """Return the plan for people: counts, hours and money, no key and no identifier."""
    return "\n".join(
        [
            f"plan of pipeline {plan.pipeline}: nothing was claimed, staged or imported",
            *_delivery_lines(plan),
            *_work_lines(plan),
            *_cost_lines(plan.cost),
            "",
            "Assumed:",
            *(f"  - {text}" for text in plan.assumptions),
        ]
    )


def _delivery_lines(plan: Plan) -> Iterator[str]:
    yield f"  {'objects listed':42}{plan.listed:>14,}"
    yield f"  {'settled by earlier runs':42}{plan.settled:>14,}"
    yield f"  {'held by other runs':42}{plan.claimed_elsewhere:>14,}"
    if plan.undated:
        yield f"  {'without a date in their key':42}{plan.undated:>14,}"
    yield f"  {'arrivals':42}{plan.arrivals:>14,}  {_size(plan.bytes)}"
    for item in plan.findings:
        name = f"  {item.verdict}" + (f" {item.reason}" if item.reason else "")
        sentence = f"  {item.sentence}" if item.sentence else ""
        number = item.arrivals if item.units is None else item.units
        yield f"  {name:42}{number:>14,}  {_size(item.bytes):>10}{sentence}"


def _content_lines(plan: Plan) -> Iterator[str]:
    if plan.kind == "imaging":
        yield f"  {'studies':42}{plan.studies:>14,}"
        yield f"  {'series':42}{plan.series:>14,}"
    elif plan.resources is not None:
        yield f"  {'resources to import':42}{plan.resources.total:>14,}"
        for name, number in plan.resources.by_type.items():
            yield f"    {name:40}{number:>14,}"
        yield f"  {'patients':42}{plan.resources.patients:>14,}"
    else:
        yield f"  {'resources':42}{'unknown':>14}  before the documents are converted"


def _work_lines(plan: Plan) -> Iterator[str]:
    batches, hours = plan.batches, plan.hours
    yield from _content_lines(plan)
    largest = f"largest: {batches.most_files:,} files, {_size(batches.most_bytes)}; {batches.in_place:,} without a copy"
    yield f"  {_JOBS[plan.kind]:42}{batches.jobs:>14,}  {largest}"
    if batches.too_many:
        yield f"  More jobs than the {MAX_BATCHES:,} that one run maps: take it in by smaller windows or prefixes."
    nights = "" if hours.nights is None else f", in {hours.nights} night(s)"
    yield f"  {'hours of copies':42}{hours.copies:>14,.2f}"
    yield f"  {'hours of import':42}{hours.jobs:>14,.2f}  limited by {hours.limited_by}{nights}"


def _cost_lines(cost: Cost) -> Iterator[str]:
    yield ""
    yield f"Cost in {cost.currency}, prices of {cost.region} as of {cost.as_of:%Y-%m-%d}:"
    for item in cost.requests:
        made = "  made by the plan too" if item.made else ""
        yield f"  {item.what:60}{item.number:>14,}{_money(item.cost)}{made}"
    yield f"  {'all requests':74}{_money(cost.all_requests)}"
    yield f"  {'import':74}{_money(cost.imports)}"
    for what, month, stored in _storage_lines(cost.storage):
        yield f"  {what:74}{_money(month)}{stored}"


def _storage_lines(storage: Storage | ResourceStorage) -> Iterator[tuple[str, float | None, str]]:
    if isinstance(storage, Storage):
        stored = f"  {storage.image_sets:,} image sets, billed as {_size(storage.billed_bytes)}"
        yield "storage per month, Frequent Access", storage.frequent, stored
        yield "storage per month, Archive Instant Access", storage.archive, ""
    else:
        stored = "" if storage.billed_bytes is None else f"  billed as {_size(storage.billed_bytes)}"
        yield "storage per month, HealthLake", storage.healthlake, stored
    yield "copies in S3 per month, until they are removed", storage.copies, ""


def _money(amount: float | None) -> str:
    return f"{'unknown':>12}" if amount is None else f"{amount:>12,.4f}"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"
