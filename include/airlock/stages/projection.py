"""How long a whole archive takes: the rate that each limit allows, and which of them binds.

The waves of an archive are taken by several stages at the same time, so the slowest of them sets the pace. Before it
come the listing and the first wave up to its first copy, after it the last wave's last job and its audit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from airlock.stages.plan import ProjectedLimit, Projection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import ImagingPipeline

_PAGE = 1_000  # objects in one answer to a LIST
_LISTINGS = 2  # of receive and of buffer
_MILLION = 1_000_000


class Work(NamedTuple):
    """What the objects of an archive need, in the mean.

    Parameters
    ----------
    requests_per_object
        GETs of headers.
    copies_per_object
        0 where all batches are imported in place.
    files_per_job
        The objects of an import job.
    seconds_per_job
        Its time.
    """

    requests_per_object: float
    copies_per_object: float
    files_per_job: float
    seconds_per_job: float


@dataclass(frozen=True)
class Assumed:
    """The limits and times that a projection rests on; all but the first six are fields of ``plan.projection``.

    Parameters
    ----------
    copies_in_flight
        Of all stage tasks together.
    copy_seconds, starts_per_second, concurrent_jobs
        As under ``plan``.
    wave_objects, active_runs
        The objects of a wave, and the waves at the same time.
    """

    copies_in_flight: float
    copy_seconds: float
    starts_per_second: float
    concurrent_jobs: float
    wave_objects: int
    active_runs: int
    list_seconds: float
    gets_per_second: float
    copies_per_second: float
    check_seconds_per_million: float
    audit_seconds_per_million: float
    cpu_ms_per_object: float
    cores: float

    @classmethod
    def of(cls, pipeline: ImagingPipeline, **measured: float) -> Assumed:
        """Return what a pipeline's settings say, but for what was measured."""
        plan, projection = pipeline.plan, pipeline.plan.projection
        times = ("list_seconds", "check_seconds_per_million", "audit_seconds_per_million", "cpu_ms_per_object")
        rates = ("gets_per_second", "copies_per_second", "cores")
        values: dict[str, Any] = {
            "copies_in_flight": pipeline.staging.copies_in_flight * projection.staging_slots,
            "copy_seconds": plan.copy_seconds,
            "starts_per_second": plan.starts_per_second,
            "concurrent_jobs": plan.concurrent_jobs,
            "wave_objects": pipeline.wave_limits[0],
            "active_runs": pipeline.schedule.max_active_runs,
            **{name: getattr(projection, name) for name in (*times, *rates)},
        }
        return cls(**values | measured)


def project(objects: int, work: Work, assumed: Assumed) -> Projection:
    """Return how long an archive of so many objects takes."""
    wave = min(objects, assumed.wave_objects)
    rates = _rates(work, assumed)
    course = _Course(wave, rates, work, assumed)
    if objects > wave:
        rates["active runs"] = assumed.active_runs * wave / course.seconds
    binding = min(rates, key=lambda limit: rates[limit])
    listing = _LISTINGS * math.ceil(objects / _PAGE) * assumed.list_seconds
    parts = {
        "head_hours": (listing + course.before_copies) / 3600,
        "binding_hours": objects / rates[binding] / 3600,
        "tail_hours": (work.seconds_per_job + course.audit) / 3600,
    }
    return Projection(
        objects=objects,
        waves=math.ceil(objects / wave),
        jobs=math.ceil(objects / work.files_per_job),
        limited_by=binding,
        limits=tuple(
            ProjectedLimit(limit=limit, objects_per_second=rate, hours=objects / rate / 3600)
            for limit, rate in sorted(rates.items(), key=lambda pair: pair[1])
        ),
        **parts,
        hours=sum(parts.values()),
        assumptions=tuple(_assumptions(work, assumed)),
    )


def _rates(work: Work, assumed: Assumed) -> dict[str, float]:
    """Return the objects a second that each limit allows by itself."""
    rates = {
        "job starts": assumed.starts_per_second * work.files_per_job,
        "CPU": assumed.cores * 1000 / assumed.cpu_ms_per_object,
    }
    if work.seconds_per_job:
        rates["concurrent jobs"] = assumed.concurrent_jobs * work.files_per_job / work.seconds_per_job
    if work.requests_per_object:
        rates["S3 GET"] = assumed.gets_per_second / work.requests_per_object
    if work.copies_per_object:
        rates["S3 COPY"] = assumed.copies_per_second / work.copies_per_object
    if work.copies_per_object and assumed.copy_seconds:
        rates["copies in flight"] = assumed.copies_in_flight / assumed.copy_seconds / work.copies_per_object
    return rates


class _Course:
    """One wave, from its first header to the end of its audit, as if it were alone; in seconds."""

    def __init__(self, wave: int, rates: dict[str, float], work: Work, assumed: Assumed) -> None:
        reading = wave / min(rates.get("S3 GET", math.inf), rates["CPU"])
        self.before_copies = reading + wave / _MILLION * assumed.check_seconds_per_million
        staged_and_imported = wave / min(rate for limit, rate in rates.items() if limit != "S3 GET")
        self.audit = wave / _MILLION * assumed.audit_seconds_per_million
        self.seconds = self.before_copies + staged_and_imported + work.seconds_per_job + self.audit


def _assumptions(work: Work, assumed: Assumed) -> Iterator[str]:
    yield (
        f"A page of a listing takes {assumed.list_seconds:g} s and is asked for {_LISTINGS} times. S3 answers "
        f"{assumed.gets_per_second:g} GETs and {assumed.copies_per_second:g} copies a second, as AWS documents for one "
        f"prefix. An object needs {work.requests_per_object:.3g} GETs and {work.copies_per_object:.3g} copies."
    )
    yield (
        f"A copy takes {assumed.copy_seconds:g} s, and {assumed.copies_in_flight:g} are in flight. A job of "
        f"{work.files_per_job:,.0f} objects takes {work.seconds_per_job:.0f} s; {assumed.concurrent_jobs:g} jobs at a "
        f"time; starts a second: {assumed.starts_per_second:g}."
    )
    yield (
        f"Waves of {assumed.wave_objects:,} objects, {assumed.active_runs} at the same time. Of a million objects, "
        f"validate and normalize take {assumed.check_seconds_per_million:g} s, audit "
        f"{assumed.audit_seconds_per_million:g} s. An object takes {assumed.cpu_ms_per_object:g} ms of CPU, of "
        f"{assumed.cores:g} cores for workers, Airflow and PostgreSQL."
    )
    yield "All objects are new. Nothing fails, is throttled or waits for a person or a night."
