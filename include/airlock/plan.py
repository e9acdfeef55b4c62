"""A plan: what a run would do, found by the same run stopped after normalize, which claims and imports nothing.

A plan's datasets lie in the folder ``plan`` of the run's workspace, and ``plan/plan.json`` is the plan itself, schema
``airlock.plan/1``; ``json_schema()`` is published as docs/plan.schema.json. docs/planning.md says how it reckons.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from airlock.buffer import find_index
from airlock.import_window import hours_open
from airlock.normalize import MAX_BATCHES, foresee
from airlock.reading import find as find_reading
from airlock.reasons import SENTENCES
from airlock.records import VERDICTS, Verdict
from airlock.run import PLAN, run_key
from airlock.s3 import requests_of_copy
from airlock.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import ImagingPipeline, PlanSettings, Prices
    from airlock.run import Run
    from airlock.s3 import S3

NAME = "plan.json"
_GIB = 1024**3
_MIB = 1024**2
_PAGE = 1_000  # objects in one answer to a LIST
_MANIFESTS = 3  # objects that audit reads of a job's output
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
    arrivals: int
    bytes: int


class Batches(_Part):
    """The import jobs."""

    jobs: int
    files: int
    bytes: int
    most_files: int = Field(description="in one job")
    most_bytes: int = Field(description="in one job")
    in_place: int = Field(description="jobs that need no copy")
    too_many: bool = Field(description="more than one run maps: take it in by smaller windows or prefixes")


class Hours(_Part):
    """How long staging and import take, by the settings under ``plan``."""

    copies: float
    jobs: float
    total: float
    limited_by: Literal["job starts", "concurrent jobs", "the longest job"] = Field(description="what makes jobs wait")
    nights: int | None = Field(description="with schedule.import_window, how many of them the jobs need")


class Requests(_Part):
    """Requests of one sort."""

    what: str
    number: int
    cost: float
    made: bool = Field(description="whether the plan itself has made as many; the run makes them once more")


class Storage(_Part):
    """What is stored, and what it costs per month."""

    image_sets: int = Field(description="one per series, as HealthImaging makes them of consistent files")
    billed_bytes: int = Field(description="with the least size of an image set")
    frequent: float = Field(description="per month, all of it in the Frequent Access tier: the first month at least")
    archive: float = Field(description="per month, all of it in the Archive Instant Access tier")
    copies: float = Field(description="per month, while the batches' copies lie in S3")


class Cost(_Part):
    """Money, by the price table of the pipeline."""

    currency: str
    region: str
    as_of: date = Field(description="the day of the price table: check AWS's price page")
    requests: tuple[Requests, ...]
    all_requests: float
    imports: float
    storage: Storage


class Plan(_Part):
    """What a run would do, by what lies there now and what the ledger knows now."""

    version: Literal["airlock.plan/1"] = Field("airlock.plan/1", alias="schema")
    pipeline: str
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
    findings: tuple[Finding, ...] = Field(description="every arrival is in one of them")
    studies: int = Field(description="with at least one accepted file")
    series: int = Field(description="with at least one accepted file")
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
    plan = _make(run)
    where = run.workspace.root.join(NAME)
    run.s3.put(where, plan.to_json().encode(), "application/json")
    return plan, str(where)


def read_plan(s3: S3, pipeline: ImagingPipeline, run_id: str) -> Plan:
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
class _Jobs:
    """Sums over the batches."""

    files: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    in_place: int = 0
    copied: int = 0  # files
    copied_bytes: int = 0
    copy_requests: int = 0
    pages: int = 0  # of one listing of every prefix

    def add(self, batch: pl.DataFrame, in_place: bool) -> None:
        """Add a batch."""
        self.files.append(batch.height)
        self.bytes.append(int(batch["size"].sum()))
        self.pages += math.ceil(batch.height / _PAGE)
        if in_place:
            self.in_place += 1
            return
        self.copied += batch.height
        self.copied_bytes += self.bytes[-1]
        self.copy_requests += sum(map(requests_of_copy, batch["size"]))

    def seconds(self, settings: PlanSettings) -> list[float]:
        """Return how long each job takes."""
        return [
            settings.job_seconds
            + max(files / settings.job_files_per_second, size / (settings.job_mib_per_second * _MIB))
            for files, size in zip(self.files, self.bytes, strict=True)
        ]


def _make(run: Run) -> Plan:
    index, settings = find_index(run) or {"shards": []}, run.pipeline.plan
    accepted, jobs = _Accepted(), _Jobs()
    for part in run.workspace.parts("verdicts", VERDICTS, _COLUMNS):
        accepted.add(part, settings)
    for files, in_place in foresee(run):
        jobs.add(files, in_place)
    counts = ("listed", "settled", "claimed_elsewhere", "undated", "arrivals", "bytes")
    return Plan(
        schema="airlock.plan/1",
        pipeline=run.pipeline.name,
        run_id=run.run_id,
        made_at=datetime.now(UTC),
        window=None if run.window is None else (run.window.start, run.window.end),
        prefix=str(run.prefix),
        **{name: index.get(name, 0) for name in counts},
        findings=tuple(_findings(accepted)),
        studies=accepted.studies,
        series=accepted.series,
        batches=_batches(jobs),
        hours=_hours(run.pipeline, jobs),
        cost=_cost(run, index, accepted, jobs),
        assumptions=tuple(_assumptions(run.pipeline)),
    )


def _findings(accepted: _Accepted) -> Iterator[Finding]:
    order = list(Verdict)
    for verdict, reason in sorted(accepted.found, key=lambda pair: (order.index(Verdict(pair[0])), pair[1] or "")):
        yield Finding(
            verdict=Verdict(verdict),
            reason=reason,
            sentence=SENTENCES[reason] if reason else None,
            arrivals=accepted.found[verdict, reason],
            bytes=accepted.bytes[verdict, reason],
        )


def _batches(jobs: _Jobs) -> Batches:
    return Batches(
        jobs=len(jobs.files),
        files=sum(jobs.files),
        bytes=sum(jobs.bytes),
        most_files=max(jobs.files, default=0),
        most_bytes=max(jobs.bytes, default=0),
        in_place=jobs.in_place,
        too_many=len(jobs.files) > MAX_BATCHES,
    )


def _hours(pipeline: ImagingPipeline, jobs: _Jobs) -> Hours:
    settings, window = pipeline.plan, pipeline.schedule.import_window
    seconds = jobs.seconds(settings)
    longest = max(seconds, default=0)
    bounds: dict[Any, float] = {
        "concurrent jobs": sum(seconds) / settings.concurrent_jobs,
        "job starts": max(0, len(seconds) - 1) / settings.starts_per_second + min(seconds, default=0),
        "the longest job": longest,
    }
    limit = max(bounds, key=lambda name: bounds[name])
    importing = bounds[limit] / 3600
    copying = jobs.copied * settings.copy_seconds / pipeline.staging.copies_in_flight / 3600
    return Hours(
        copies=copying,
        jobs=importing,
        total=copying + importing,
        limited_by=limit,
        nights=None if window is None else math.ceil(importing / hours_open(window)),
    )


def _cost(run: Run, index: dict[str, Any], accepted: _Accepted, jobs: _Jobs) -> Cost:
    prices = run.pipeline.plan.prices
    requests = tuple(_requests(run, index, jobs))
    return Cost(
        currency=prices.currency,
        region=prices.region,
        as_of=prices.as_of,
        requests=requests,
        all_requests=sum(item.cost for item in requests),
        imports=sum(jobs.bytes) / _GIB * prices.import_gib,
        storage=_storage(prices, accepted, jobs),
    )


def _storage(prices: Prices, accepted: _Accepted, jobs: _Jobs) -> Storage:
    gib = accepted.billed / _GIB
    return Storage(
        image_sets=accepted.series,
        billed_bytes=math.ceil(accepted.billed),
        frequent=gib * prices.frequent_gib_month,
        archive=gib * prices.archive_gib_month,
        copies=jobs.copied_bytes / _GIB * prices.s3_gib_month,
    )


def _requests(run: Run, index: dict[str, Any], jobs: _Jobs) -> Iterator[Requests]:
    prices, store = run.pipeline.plan.prices, run.pipeline.healthimaging
    pages = max(1, math.ceil(index.get("listed", 0) / _PAGE))
    headers = find_reading(run.workspace, index["shards"]).requests
    number, files = len(jobs.files), sum(jobs.files)
    looks = sum(1 + math.ceil(seconds / store.poll_seconds) for seconds in jobs.seconds(run.pipeline.plan))
    for what, requests, price, made in (
        ("S3 LIST of the source, by receive and buffer", 2 * pages, prices.put_per_1000, True),
        ("S3 GET of headers, by parse", headers, prices.get_per_1000, True),
        ("S3 COPY to the batches' prefixes, by normalize", jobs.copy_requests, prices.put_per_1000, False),
        ("S3 LIST of the batches' prefixes, by normalize and import", 2 * jobs.pages, prices.put_per_1000, False),
        ("S3 GET of whole files, by HealthImaging", files, prices.get_per_1000, False),
        ("S3 GET of manifests, by audit", number * _MANIFESTS, prices.get_per_1000, False),
        ("HealthImaging StartDICOMImportJob", number, prices.api_per_1000, False),
        ("HealthImaging GetDICOMImportJob", looks, prices.api_per_1000, False),
    ):
        yield Requests(what=what, number=requests, cost=requests / 1000 * price, made=made)


def _assumptions(pipeline: ImagingPipeline) -> Iterator[str]:
    settings, prices = pipeline.plan, pipeline.plan.prices
    yield (
        f"Prices of {prices.region}, read on {prices.as_of:%Y-%m-%d}, without free tiers: check AWS's price page and "
        f"correct plan.prices."
    )
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
    for finding in plan.findings:
        name = f"  {finding.verdict}" + (f" {finding.reason}" if finding.reason else "")
        sentence = f"  {finding.sentence}" if finding.sentence else ""
        yield f"  {name:42}{finding.arrivals:>14,}  {_size(finding.bytes):>10}{sentence}"


def _work_lines(plan: Plan) -> Iterator[str]:
    batches, hours = plan.batches, plan.hours
    yield f"  {'studies':42}{plan.studies:>14,}"
    yield f"  {'series':42}{plan.series:>14,}"
    largest = f"largest: {batches.most_files:,} files, {_size(batches.most_bytes)}; {batches.in_place:,} without a copy"
    yield f"  {'batches, one import job each':42}{batches.jobs:>14,}  {largest}"
    if batches.too_many:
        yield f"  More jobs than the {MAX_BATCHES:,} that one run maps: take it in by smaller windows or prefixes."
    nights = "" if hours.nights is None else f", in {hours.nights} night(s)"
    yield f"  {'hours of copies':42}{hours.copies:>14,.2f}"
    yield f"  {'hours of import':42}{hours.jobs:>14,.2f}  limited by {hours.limited_by}{nights}"


def _cost_lines(cost: Cost) -> Iterator[str]:
    yield ""
    yield f"Cost in {cost.currency}, prices of {cost.region} as of {cost.as_of:%Y-%m-%d}:"
    for item in cost.requests:
        yield f"  {item.what:60}{item.number:>14,}{item.cost:>12,.4f}{'  made by the plan too' if item.made else ''}"
    storage = cost.storage
    stored = f"{storage.image_sets:,} image sets, billed as {_size(storage.billed_bytes)}"
    yield f"  {'all requests':74}{cost.all_requests:>12,.4f}"
    yield f"  {'import':74}{cost.imports:>12,.4f}"
    yield f"  {'storage per month, Frequent Access':74}{storage.frequent:>12,.4f}  {stored}"
    yield f"  {'storage per month, Archive Instant Access':74}{storage.archive:>12,.4f}"
    yield f"  {'copies in S3 per month, until they are removed':74}{storage.copies:>12,.4f}"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} B" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"
