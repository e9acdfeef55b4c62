"""``kind: clinical``: FHIR R4 resources, as NDJSON or Bundles, into HealthLake at the depth that the risk asks for."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field, model_validator

from airlock.pipelines.healthlake import HealthLake
from airlock.pipelines.notify import Notify
from airlock.pipelines.parts import Pipeline
from airlock.pipelines.plan import ClinicalPlanSettings
from airlock.pipelines.review import ON_HOLD, OnHold, Review, check_review
from airlock.pipelines.settings import Settings


class Workflow(StrEnum):
    """What the data is for, which says how wrong it may be when it comes in."""

    CONTRACT = "contract"
    MODERNIZATION = "modernization"
    THROUGHPUT = "throughput"


class ValidationLevel(StrEnum):
    """HealthLake's depth of validation (StartFHIRImportJob, ValidationLevel)."""

    STRICT = "strict"
    STRUCTURE_ONLY = "structure-only"
    MINIMAL = "minimal"


LEVELS = {
    Workflow.CONTRACT: ValidationLevel.STRICT,
    Workflow.MODERNIZATION: ValidationLevel.STRUCTURE_ONLY,
    Workflow.THROUGHPUT: ValidationLevel.MINIMAL,
}


class Risk(Settings):
    """The workflow's risk, from which the depth of validation follows."""

    workflow: Workflow = Field(
        description="contract: validated strictly; modernization: structure-only; throughput: minimal, reviewed later"
    )
    why: str = Field(
        min_length=10, description="a sentence for those who inherit the pipeline: why this depth is right"
    )

    @property
    def validation_level(self) -> ValidationLevel:
        """The depth that HealthLake is asked for."""
        return LEVELS[self.workflow]


class ClinicalParse(Settings):
    """How files are read."""

    shard_size: int = Field(50, ge=1, description="files per mapped task")
    max_shards: int = Field(
        1_000, ge=1, le=1_000, description="shards grow rather than exceed this (Airflow maps 1,024)"
    )
    chunk_mib: int = Field(16, ge=1, description="of resources held in memory before they are written")
    resource_mib: float = Field(10, gt=0, description="largest resource; a longer line is set aside without being held")
    bundle_mib: float = Field(50, gt=0, description="largest Bundle that is not one line; it is read as a whole")
    max_faulty: int = Field(
        10_000, ge=1, description="lines or entries of a file that are no resources; with more, the file is set aside"
    )
    max_units: int = Field(
        5_000_000, ge=1, description="lines or entries of a file; with more, none of it is imported: split it"
    )
    unpacked_mib: float = Field(
        10_240, gt=0, description="largest file, gzip unpacked; of a larger one nothing is imported: split it"
    )
    sidecars: tuple[str, ...] = Field(
        (
            ".DS_Store", "._*", "Thumbs.db", "desktop.ini", "_SUCCESS", "manifest.json", "delivery.json", "*.txt",
            "*.md", "*.csv", "*.tsv", "*.html", "*.htm", "*.pdf", "*.log", "*.md5", "*.sha256", "*.sha1",
        ),
        description="names (shell patterns) of files that lie beside a delivery and were never FHIR",
    )  # fmt: skip


class ClinicalValidate(Settings):
    """Which findings stop a resource before the data store sees it."""

    service_check: Literal["none", "sample", "all"] = Field(
        "none", description="ask the data store's $validate about no, some or all resources before anything is stored"
    )
    sample_size: int = Field(
        200, ge=1, description="with service_check: sample, so many resources, spread over all types"
    )
    checks_in_flight: int = Field(8, ge=1, le=64, description="$validate calls at a time")
    unknown_reference: Literal["quarantine", "accept"] = Field(
        "quarantine",
        description="of a resource that refers to one neither in the delivery nor in the data store; a urn:uuid or "
        "conditional reference that leads nowhere is stopped in any case",
    )
    changed_resource: Literal["update", "quarantine"] = Field(
        "update", description="of a resource that an earlier delivery brought with other content"
    )


class ClinicalAudit(Settings):
    """What it takes to release a patient's resources."""

    manifest_wait_seconds: float = Field(
        300, ge=0, description="a manifest may come after COMPLETED; no longer than this"
    )
    read_back_sample: int = Field(50, ge=0, description="resources that are read back from the data store and compared")
    hold_incomplete_patients: bool = Field(
        False, description="hold all of a patient when one of the patient's resources was set aside"
    )
    hold_incomplete_files: bool = Field(False, description="hold all of a file when one of its resources was set aside")
    on_hold: OnHold = Field("hold", description=ON_HOLD)


class ClinicalPipeline(Pipeline):
    """One clinical pipeline: source, store, risk, policies, routes."""

    kind: Literal["clinical"] = Field(description="what travels")
    risk: Risk
    parse: ClinicalParse = ClinicalParse()
    validation: ClinicalValidate = ClinicalValidate()
    notify: tuple[Notify, ...] = Field((), description="who is told of holds, failures and late deliveries, see below")
    healthlake: HealthLake
    audit: ClinicalAudit = ClinicalAudit()
    plan: ClinicalPlanSettings = ClinicalPlanSettings()
    review: Review | None = Field(None, description="required where the workflow is throughput or on_hold is review")

    @model_validator(mode="after")
    def _fits_the_risk(self) -> ClinicalPipeline:
        self.check_generations("healthlake.max_generations", self.healthlake.max_generations)
        check_review(self.audit.on_hold, self.review)
        if self.risk.validation_level is ValidationLevel.MINIMAL and self.review is None:
            raise ValueError(
                "risk.workflow throughput stores resources that are invalid, so it needs a review: name who looks at "
                "them under review.by, or choose modernization or contract"
            )
        return self

    @property
    def datastore_id(self) -> str:
        """The HealthLake data store."""
        return self.healthlake.datastore_id

    def own_prefixes(self) -> dict[str, str]:
        """Return the prefixes that the pipeline writes below, by the field that names each."""
        return super().own_prefixes() | {"healthlake.output_uri": self.healthlake.output_uri}

    def connections(self) -> set[str]:
        """Return the Airflow connections that the pipeline names."""
        return super().connections() | {self.healthlake.aws_conn_id}
