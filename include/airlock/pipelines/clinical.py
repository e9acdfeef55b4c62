"""``kind: clinical``: FHIR R4 resources, as NDJSON or Bundles, into HealthLake."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from airlock.pipelines.brake import BRAKE, Brake, BrakeSetting
from airlock.pipelines.healthlake import HealthLake
from airlock.pipelines.notify import Notify
from airlock.pipelines.order import SAFETY_TYPES, Order, ResourceTypes
from airlock.pipelines.parking import PARK_DAYS, PARK_ON, ParkDays
from airlock.pipelines.parts import Pipeline
from airlock.pipelines.plan import ClinicalPlanSettings
from airlock.pipelines.review import ON_HOLD, OnHold, Review, check_review
from airlock.pipelines.settings import Settings


class Workflow(StrEnum):
    """The use of the data, which decides how strictly it is validated."""

    CONTRACT = "contract"
    MODERNIZATION = "modernization"
    THROUGHPUT = "throughput"


class ValidationLevel(StrEnum):
    """HealthLake's validation levels (StartFHIRImportJob, ValidationLevel)."""

    STRICT = "strict"
    STRUCTURE_ONLY = "structure-only"
    MINIMAL = "minimal"


LEVELS = {
    Workflow.CONTRACT: ValidationLevel.STRICT,
    Workflow.MODERNIZATION: ValidationLevel.STRUCTURE_ONLY,
    Workflow.THROUGHPUT: ValidationLevel.MINIMAL,
}


class Risk(Settings):
    """The workflow's risk, which decides the depth of validation."""

    workflow: Workflow = Field(
        description="contract: strict validation; modernization: structure-only; throughput: minimal "
        "validation, then a review"
    )
    why: str = Field(min_length=10, description="a sentence for later maintainers that says why this depth is right")

    @property
    def validation_level(self) -> ValidationLevel:
        """The validation level of the import jobs."""
        return LEVELS[self.workflow]


class ClinicalParse(Settings):
    """How files are read."""

    shard_size: int = Field(50, ge=1, description="files per mapped task")
    max_shards: int = Field(
        1_000,
        ge=1,
        le=1_000,
        description="most shards; with more arrivals the shards grow (Airflow maps 1,024 tasks at most)",
    )
    chunk_mib: int = Field(16, ge=1, description="resources held in memory before they are written")
    resource_mib: float = Field(
        10, gt=0, description="largest resource; a longer line is set aside without reading it into memory"
    )
    bundle_mib: float = Field(50, gt=0, description="largest Bundle of several lines, which is read as a whole")
    max_faulty: int = Field(
        10_000,
        ge=1,
        description="most lines or entries of a file that are not resources; with more, the file is set aside",
    )
    max_units: int = Field(
        5_000_000, ge=1, description="most lines or entries of a file; a file with more is not imported: split it"
    )
    unpacked_mib: float = Field(
        10_240, gt=0, description="largest file after gzip is unpacked; a larger file is not imported: split it"
    )
    sidecars: tuple[str, ...] = Field(
        (
            ".DS_Store", "._*", "Thumbs.db", "desktop.ini", "_SUCCESS", "manifest.json", "delivery.json", "*.txt",
            "*.md", "*.csv", "*.tsv", "*.html", "*.htm", "*.pdf", "*.log", "*.md5", "*.sha256", "*.sha1",
        ),
        description="names (shell patterns) of files that accompany a delivery and are not FHIR",
    )  # fmt: skip


ServiceCheck = Literal["none", "sample", "all"]


class ClinicalValidate(Settings):
    """The findings that keep a resource from being imported."""

    service_check: ServiceCheck | None = Field(
        None,
        description="check no resources, a sample or all with the data store's $validate before any is stored; null: a "
        "sample if risk.workflow is contract, else none",
    )
    sample_size: int = Field(
        200, ge=1, description="with service_check: sample, the number of resources, spread over all types"
    )
    checks_in_flight: int = Field(8, ge=1, le=64, description="$validate calls at the same time")
    unknown_reference: Literal["park", "quarantine", "accept"] = Field(
        "park",
        description="action on a resource that refers to one that is neither in the delivery nor in the data store: "
        "park lets it wait, see below; a urn:uuid or conditional reference without a target is always quarantined",
    )
    park_on: ResourceTypes = Field(
        PARK_ON,
        description="with park, the types of missing resources that others wait for; a resource that lacks one of "
        "another type only is accepted with the note dangling_reference",
    )
    park_days: ParkDays = Field(
        PARK_DAYS,
        description="how many days a resource of each type waits; a name may end with *, others counts for the rest, "
        "and types that are not named keep their defaults",
    )
    park_units_per_run: int = Field(
        50_000, ge=1, le=500_000, description="most parked resources that a run takes in; the next run takes more"
    )
    changed_resource: Literal["update", "quarantine"] = Field(
        "update", description="action on a resource that an earlier delivery brought with other content"
    )


class ClinicalAudit(Settings):
    """The conditions for releasing a patient's resources."""

    manifest_wait_seconds: float = Field(
        300, ge=0, description="longest wait for a manifest after the job is COMPLETED"
    )
    read_back_sample: int = Field(
        50, ge=0, description="number of resources that are read back from the data store and compared"
    )
    hold_incomplete_patients: bool = Field(
        False, description="hold all resources of a patient if one of hold_types was set aside, in this run or another"
    )
    hold_types: ResourceTypes = Field(
        SAFETY_TYPES, description="with hold_incomplete_patients, the resource types that hold their patient"
    )
    hold_incomplete_files: bool = Field(False, description="hold all resources of a file if one of them was set aside")
    on_hold: OnHold = Field("hold", description=ON_HOLD)
    brake: BrakeSetting = Field(Brake(), description=BRAKE)


class ClinicalPipeline(Pipeline):
    """A clinical pipeline."""

    resources_folder: ClassVar[str] = ""  # of a run's workspace: the datasets about the resources that it imports

    kind: Literal["clinical"] = Field(description="the kind of data that the pipeline imports")
    risk: Risk
    parse: ClinicalParse = ClinicalParse()
    validation: ClinicalValidate = ClinicalValidate()
    notify: tuple[Notify, ...] = Field(
        (), description="who is notified of holds, failures and late deliveries, see below"
    )
    healthlake: HealthLake
    audit: ClinicalAudit = ClinicalAudit()
    plan: ClinicalPlanSettings = ClinicalPlanSettings()
    review: Review | None = Field(
        None, description="who answers reviews; required if the workflow is throughput or on_hold is review"
    )

    @model_validator(mode="after")
    def _require_order(self) -> ClinicalPipeline:
        if self.source.order is None:
            raise ValueError(
                "field 'source.order' is missing: name under source.order.across_keys the clock that orders two "
                "contents of a resource: last_updated, key_date, manifest or last_modified"
            )
        return self

    @model_validator(mode="after")
    def _require_review_for_invalid_data(self) -> ClinicalPipeline:
        self.check_generations("healthlake.max_generations", self.healthlake.max_generations)
        self.choose_output_key(self.healthlake.output_uri, self.healthlake.kms_key_id)
        check_review(self.audit.on_hold, self.review)
        if self.risk.validation_level is ValidationLevel.MINIMAL and self.review is None:
            raise ValueError(
                "risk.workflow throughput stores invalid resources, so it needs a review: name the reviewers in "
                "review.by, or choose modernization or contract"
            )
        if self.risk.validation_level is ValidationLevel.MINIMAL and self.audit.on_hold != "review":
            raise ValueError(
                "risk.workflow throughput stores invalid resources, and nothing would ask their reviewers: set "
                "audit.on_hold to review, or choose modernization or contract"
            )
        return self

    @property
    def asks_people(self) -> bool:
        """Whether people are asked about what its gate holds."""
        return self.audit.on_hold == "review"

    @property
    def service_check(self) -> ServiceCheck:
        """How many resources are checked with $validate before any is stored."""
        by_risk: ServiceCheck = "sample" if self.risk.workflow is Workflow.CONTRACT else "none"
        return self.validation.service_check or by_risk

    @property
    def order(self) -> Order:
        """The order of the contents of a resource."""
        assert self.source.order is not None  # noqa: S101  # for mypy: `_require_order` has checked it
        return self.source.order

    @property
    def datastore_id(self) -> str:
        """The id of the HealthLake data store."""
        return self.healthlake.datastore_id

    def own_prefixes(self) -> dict[str, str]:
        """Return the prefixes that the pipeline writes to, by the name of their field."""
        return super().own_prefixes() | {"healthlake.output_uri": self.healthlake.output_uri}

    def connections(self) -> set[str]:
        """Return the Airflow connections that the pipeline names."""
        return super().connections() | {self.healthlake.aws_conn_id}
