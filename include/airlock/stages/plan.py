"""A plan: what a run would do, found by the same run stopped after normalize, which claims and imports nothing.

A plan's datasets lie in the folder ``plan`` of the run's workspace, and ``plan/plan.json`` is the plan itself, schema
``airlock.plan/1``; ``json_schema()`` is published as docs/plan.schema.json. docs/planning.md says how it reckons.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from airlock.records import Verdict
from airlock.run import PLAN, run_key
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.storage.s3 import S3

NAME = "plan.json"


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


def write(run: Run[Pipeline], plan: Plan) -> tuple[Plan, str]:
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
