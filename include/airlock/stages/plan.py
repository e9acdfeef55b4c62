"""The plan of a run: its counts, hours and costs, from a run that stops after normalize and claims and imports nothing.

The folder ``plan`` of the run's workspace has the datasets of a plan and ``plan.json``, schema ``airlock.plan/1``.
``json_schema()`` is published as docs/plan.schema.json. docs/planning.md explains the estimates.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from airlock.pipelines.published_schema import with_head
from airlock.records import Verdict
from airlock.run import PLAN, run_key
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.storage.s3 import S3

NAME = "plan.json"


class PlanMissingError(LookupError):
    """A run has not written a plan."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Finding(_Part):
    """The arrivals with one verdict and one reason."""

    verdict: Verdict
    reason: str | None = Field(description="a reason code, docs/reasons.md; null for none")
    sentence: str | None = Field(description="the reason's sentence: the fault and the remedy")
    arrivals: int = Field(description="of a clinical pipeline: files with such a unit; one may be in several findings")
    units: int | None = Field(
        None,
        description="of a clinical pipeline: resources, other lines, and files as a whole; else null",
    )
    bytes: int = Field(description="of the arrivals; of a clinical pipeline, of the resources and of files as a whole")


class DeclaredCounts(_Part):
    """The studies of one site whose number of instances one source declares."""

    site: str = Field(description="of the study's first file by key; empty without source.site_pattern")
    declared_by: Literal["manifest", "header"] = Field(
        description="manifest: the delivery's manifest or the source's list; header: NumberOfStudyRelatedInstances"
    )
    studies: int = Field(description="of the site, with or without a declared number")
    declare: int = Field(description="studies with a declared number")
    equal: int = Field(description="of these: as many instances are known as declared")
    fewer: int
    more: int


class Resources(_Part):
    """The FHIR resources to import."""

    total: int
    by_type: dict[str, int] = Field(description="by resourceType")
    patients: int = Field(description="patients of these resources")
    validation_level: str = Field(description="requested of HealthLake, which may refuse more than a plan foresees")


class Batches(_Part):
    """The import jobs; of a ccda pipeline, the conversion jobs."""

    jobs: int
    files: int = Field(description="DICOM files, import files or documents")
    bytes: int
    most_files: int = Field(description="in one job")
    most_bytes: int = Field(description="in one job")
    in_place: int = Field(description="jobs that need no copy")
    too_many: bool = Field(description="more jobs than one run maps: split the delivery by smaller windows or prefixes")


class Hours(_Part):
    """The duration of staging and import, by the settings under ``plan``."""

    copies: float = Field(description="for copying files, or writing import files, to the batches' prefixes")
    jobs: float
    total: float
    limited_by: Literal["job starts", "concurrent jobs", "the longest job"] = Field(description="why jobs wait")
    nights: int | None = Field(description="with schedule.import_window, the number of nights that the jobs need")


class ProjectedLimit(_Part):
    """One limit, as if there were no other."""

    limit: str = Field(description="what is limited, for example S3 COPY")
    objects_per_second: float
    hours: float = Field(description="of the whole archive at this rate")


class Projection(_Part):
    """The duration of a whole archive of such objects, taken in waves."""

    objects: int = Field(description="of the archive: plan.projection.objects")
    waves: int
    jobs: int = Field(description="import jobs")
    limited_by: str = Field(description="the limit that binds, the first of limits")
    limits: tuple[ProjectedLimit, ...] = Field(description="the tightest first")
    head_hours: float = Field(description="the listing, and the first wave up to its first copy")
    binding_hours: float = Field(description="all objects at the rate of the limit that binds")
    tail_hours: float = Field(description="the last job, and the last wave's audit")
    hours: float = Field(description="sum of the three")
    assumptions: tuple[str, ...]


class Requests(_Part):
    """Requests of one kind."""

    what: str
    number: int
    cost: float | None = Field(description="null where the pipeline names no price")
    made: bool = Field(description="whether the plan has made the same requests; the run makes them again")


class Storage(_Part):
    """The storage of images, and its cost per month."""

    image_sets: int = Field(description="one per series, as HealthImaging makes of consistent files")
    billed_bytes: int = Field(description="with the least size of an image set")
    frequent: float = Field(description="per month, all of it in the Frequent Access tier, as in the first month")
    archive: float = Field(description="per month, all of it in the Archive Instant Access tier")
    copies: float = Field(description="per month, while the batches' copies are in S3")


class ResourceStorage(_Part):
    """The storage of a clinical or ccda pipeline, and its cost per month."""

    billed_bytes: int | None = Field(description="in HealthLake, before its allowance; null before a conversion")
    healthlake: float | None = Field(description="per month; null where the pipeline names no price")
    copies: float = Field(description="per month, while import files or documents are below the batches' prefixes")


class Cost(_Part):
    """The cost, by the price table of the pipeline."""

    currency: str
    region: str
    as_of: date = Field(description="the day of the price table: check AWS's price page")
    requests: tuple[Requests, ...]
    all_requests: float = Field(description="sum of the requests with a price")
    imports: float | None = Field(description="of a ccda pipeline, conversions; null where the pipeline names no price")
    storage: Storage | ResourceStorage


class Plan(_Part):
    """The expected work of a run, by the present objects and the present ledger."""

    version: Literal["airlock.plan/1"] = Field("airlock.plan/1", alias="schema")
    pipeline: str
    kind: Literal["imaging", "clinical", "ccda"] = Field("imaging", description="of the pipeline")
    run_id: str
    made_at: datetime
    window: tuple[datetime, datetime] | None = Field(description="null: all objects below the prefix")
    prefix: str
    listed: int = Field(description="objects below the prefix, whatever their window")
    settled: int = Field(description="in the window, but settled by earlier runs")
    claimed_elsewhere: int = Field(description="in the window, but held by other runs now")
    undated: int = Field(description="without a date in their key, which source.window: key_date needs")
    arrivals: int
    bytes: int
    findings: tuple[Finding, ...] = Field(
        description="each arrival is in one of them; of a clinical pipeline each unit"
    )
    studies: int | None = Field(None, description="with at least one accepted file; null in other pipelines")
    series: int | None = Field(None, description="with at least one accepted file; null in other pipelines")
    declared: tuple[DeclaredCounts, ...] = Field(
        (), description="of an imaging pipeline: declared against known instances, by site and source of the number"
    )
    questions: tuple[str, ...] = Field((), description="to answer in the pipeline file before the run")
    resources: Resources | None = Field(
        None, description="of a clinical pipeline; of a ccda pipeline they are unknown before the conversion: null"
    )
    waves: int | None = Field(
        None, description="runs that take the delivery, each a part; null in pipelines of which one run takes all of it"
    )
    batches: Batches
    hours: Hours
    cost: Cost
    projection: Projection | None = Field(
        None,
        description="to a whole archive, by plan.projection; null in other pipelines, and where nothing is imported",
    )
    assumptions: tuple[str, ...]

    def to_json(self) -> str:
        """Return the plan as it is written."""
        return self.model_dump_json(by_alias=True, indent=1)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``plan.json``."""
    schema = Plan.model_json_schema(by_alias=True, mode="serialization")
    return with_head(schema, "airlock.plan/1", "The plan of a run")


def write_plan_file(run: Run[Pipeline], plan: Plan) -> tuple[Plan, str]:
    """Write ``plan.json``; return the plan and its address."""
    where = run.workspace.root.join(NAME)
    run.s3.put(where, plan.to_json().encode(), "application/json")
    return plan, str(where)


def read_plan(s3: S3, pipeline: Pipeline, run_id: str) -> Plan:
    """Return the plan that a run with ``plan_only`` has written.

    Parameters
    ----------
    s3
        The S3 client for the pipeline's workspace.
    pipeline
        The run's pipeline.
    run_id
        Airflow's id of the DAG run.

    Raises
    ------
    PlanMissingError
        If the run has not written one.
    """
    key = run_key(pipeline.name, run_id)
    try:
        content = s3.get(S3Uri.parse(pipeline.workspace).join(pipeline.name, key, PLAN, NAME))
    except FileNotFoundError:
        raise PlanMissingError(
            f"Run {run_id!r} of pipeline {pipeline.name!r} has not written a plan. Start a run with plan_only, and "
            f"wait until its task normalize has ended."
        ) from None
    return Plan.model_validate_json(content)
