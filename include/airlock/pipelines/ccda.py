"""``kind: ccda``, a preview: C-CDA documents through HealthLake's transformation agent, then imported as FHIR."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from airlock.pipelines.clinical import ClinicalPipeline, ValidationLevel
from airlock.pipelines.plan import CcdaPlanSettings
from airlock.pipelines.review import Review
from airlock.pipelines.settings import Prefix, Settings


class Transformation(Settings):
    """The conversion job and the profile that it must run with."""

    profile_id: str = Field(pattern=r"^[0-9a-f]{32}$", description="32 hex digits")
    profile_version: int = Field(
        ge=1,
        le=99,
        description="published version; a job runs the latest, and if that is another one the run fails",
    )
    output_uri: Prefix = Field(description="s3://bucket/prefix/ for converted resources and drift reports")
    drift_detection: bool = Field(True, description="have the job say what it did not understand")
    min_coverage: float = Field(
        0.0, ge=0, le=1, description="lowest overall coverage rate of the drift report; a lower one holds the run"
    )
    poll_seconds: int = Field(30, ge=1, description="between two looks at a job")
    job_timeout_minutes: float = Field(12 * 60, gt=0, description="how long a try waits; the next one reconnects")
    max_generations: int = Field(3, ge=1, description="jobs started for one batch when they end FAILED")
    documents_per_job: int = Field(1_000, ge=1, description="most documents in one batch")
    bytes_per_job: int = Field(1_000**3, ge=1, description="most bytes in one batch (AWS: 1 GB)")
    document_mib: float = Field(10, gt=0, description="largest document")


class CcdaPipeline(ClinicalPipeline):
    """One C-CDA pipeline: a clinical one whose resources come out of a conversion."""

    kind: Literal["ccda"] = Field(description="what travels")  # type: ignore[assignment]  # narrower than the parent's
    preview: bool = Field(False, description="must be true: AWS's conversion is a preview, see docs/clinical.md")
    transformation: Transformation
    plan: CcdaPlanSettings = CcdaPlanSettings()  # type: ignore[assignment]  # of conversions, not of imports
    review: Review = Field(description="who approves converted data; there is no way around it")

    @model_validator(mode="after")
    def _is_wanted_and_checked(self) -> CcdaPipeline:
        self.check_generations("transformation.max_generations", self.transformation.max_generations)
        if not self.preview:
            raise ValueError(
                "kind ccda is a preview of AWS's and stays off: read in docs/clinical.md what that means, then set "
                "preview: true"
            )
        if self.audit.on_hold == "review":
            raise ValueError("converted data waits for its review in any case: leave audit.on_hold out")
        if self.risk.validation_level is not ValidationLevel.STRICT:
            raise ValueError("converted data is validated strictly: set risk.workflow to contract")
        return self

    def own_prefixes(self) -> dict[str, str]:
        """Return the prefixes that the pipeline writes below, by the field that names each."""
        return super().own_prefixes() | {"transformation.output_uri": self.transformation.output_uri}
