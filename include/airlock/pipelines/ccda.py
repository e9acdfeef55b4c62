"""``kind: ccda``, a preview: C-CDA documents, converted by HealthLake's transformation agent and imported as FHIR."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from airlock.pipelines.clinical import ClinicalPipeline, ClinicalValidate, ValidationLevel
from airlock.pipelines.parts import ROLE_ARN
from airlock.pipelines.plan import CcdaPlanSettings
from airlock.pipelines.review import Review
from airlock.pipelines.settings import Prefix, Settings


class Transformation(Settings):
    """The conversion job and its profile."""

    profile_id: str = Field(pattern=r"^[0-9a-f]{32}$", description="id of the profile, 32 hex digits")
    profile_version: int = Field(
        ge=1,
        le=99,
        description="published version of the profile; a job uses the latest, and the run fails if that is another one",
    )
    data_access_role_arn: str | None = Field(
        None,
        pattern=ROLE_ARN,
        description="role that HealthLake assumes for conversions, see iam/; by default that of healthlake",
    )
    output_uri: Prefix = Field(description="s3://bucket/prefix/ for converted resources and drift reports")
    drift_detection: bool = Field(True, description="let the job report what it did not understand")
    min_coverage: float = Field(
        ge=0,
        le=1,
        description="lowest coverage rate in a document's drift report; a document below it is quarantined",
    )
    poll_seconds: int = Field(30, ge=1, description="time between two checks of a job")
    job_timeout_minutes: float = Field(
        12 * 60, gt=0, description="maximum wait per attempt; a retry reconnects to the same job"
    )
    max_generations: int = Field(
        3, ge=1, description="most jobs started for one batch; the next one starts only after FAILED"
    )
    documents_per_job: int = Field(1_000, ge=1, description="most documents in one batch")
    bytes_per_job: int = Field(1_000**3, ge=1, description="most bytes in one batch (AWS: 1 GB)")
    document_mib: float = Field(10, gt=0, description="largest document")


class CcdaValidate(ClinicalValidate):
    """The findings that keep a converted resource from being imported; nothing of a document waits outside of it."""

    unknown_reference: Literal["quarantine", "accept"] = Field(
        "quarantine",
        description="action on a converted resource that refers to one that is neither in the delivery nor in the data "
        "store; a urn:uuid or conditional reference without a target is always quarantined",
    )


class CcdaPipeline(ClinicalPipeline):
    """A C-CDA pipeline: a clinical pipeline whose resources come from a conversion."""

    resources_folder: ClassVar[str] = "fhir"

    kind: Literal["ccda"] = Field(description="the kind of data that the pipeline imports")  # type: ignore[assignment]  # narrower than the parent's
    preview: bool = Field(False, description="must be true: AWS's conversion is a preview, see docs/clinical.md")
    transformation: Transformation
    validation: CcdaValidate = CcdaValidate()
    plan: CcdaPlanSettings = CcdaPlanSettings()  # type: ignore[assignment]  # conversions, not imports
    review: Review = Field(description="who approves converted data; it is never released without approval")

    @model_validator(mode="after")
    def _require_preview_and_strict_validation(self) -> CcdaPipeline:
        self.check_generations("transformation.max_generations", self.transformation.max_generations)
        if not self.preview:
            raise ValueError(
                "kind ccda relies on an AWS preview and stays off: read docs/clinical.md, then set preview to true"
            )
        if self.transformation.min_coverage and not self.transformation.drift_detection:
            raise ValueError(
                "transformation.min_coverage needs the reports of what was covered: set drift_detection to true"
            )
        if self.audit.on_hold == "review":
            raise ValueError("converted data always waits for its review: remove audit.on_hold")
        if self.risk.validation_level is not ValidationLevel.STRICT:
            raise ValueError("converted data must be validated strictly: set risk.workflow to contract")
        if self.order.across_keys == "last_updated":
            raise ValueError(
                "source.order.across_keys is last_updated, which documents do not have: use key_date, manifest or "
                "last_modified"
            )
        return self

    @property
    def asks_people(self) -> bool:
        """Whether people are asked about what its gate holds: about converted data always."""
        return True

    @property
    def conversion_key(self) -> str:
        """The KMS key of what conversions write: that of their bucket, else that of HealthLake's other jobs."""
        own = self.find_settings(self.transformation.output_uri).kms_key_id
        return own or self.choose_output_key(self.healthlake.output_uri, self.healthlake.kms_key_id)

    @property
    def conversion_role(self) -> str:
        """The role that HealthLake assumes for conversions."""
        return self.transformation.data_access_role_arn or self.healthlake.data_access_role_arn

    def own_prefixes(self) -> dict[str, str]:
        """Return the prefixes that the pipeline writes to, by the name of their field."""
        return super().own_prefixes() | {"transformation.output_uri": self.transformation.output_uri}
