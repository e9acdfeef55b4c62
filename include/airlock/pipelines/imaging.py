"""``kind: imaging``: a DICOM archive into HealthImaging and, where a HealthLake store is named, its studies as FHIR."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from airlock.pipelines.healthlake import HealthLake, Publish
from airlock.pipelines.notify import Notify
from airlock.pipelines.parts import ROLE_ARN, Pipeline
from airlock.pipelines.plan import PlanSettings
from airlock.pipelines.review import ON_HOLD, OnHold, Review, check_review
from airlock.pipelines.settings import Prefix, Settings
from airlock.reasons import Reason
from airlock.storage.s3uri import S3Uri


def _lengths(given: dict[str, int]) -> dict[str, int]:
    unknown = sorted(given.keys() - ELEMENT_LENGTHS.keys())
    if unknown:
        raise ValueError(f"{', '.join(unknown)} has no limit; those that have are {', '.join(sorted(ELEMENT_LENGTHS))}")
    return ELEMENT_LENGTHS | given


# Characters; HealthImaging developer guide, "Element constraints". What a pipeline gives replaces single ones.
ELEMENT_LENGTHS = {
    "PatientName": 256,
    "PatientID": 256,
    "PatientBirthDate": 18,
    "PatientSex": 16,
    "StudyInstanceUID": 256,
    "SeriesInstanceUID": 256,
    "SOPInstanceUID": 256,
    "StudyDate": 18,
    "StudyTime": 28,
    "StudyID": 256,
    "StudyDescription": 256,
    "AccessionNumber": 256,
}


_IN_FLIGHT_KIB = 256 * 1024  # of first ranges that one task may ask for at a time: they lie in its memory


class FirstRange(Settings):
    """The first request of each object whose key starts so: for archives with large values before the wanted ones."""

    prefix: str = Field(min_length=1, description="of whole keys, from the bucket on, as archive/mr/")
    kib: int = Field(ge=1, le=4_096, description="of each object, in the first request")


class ParseSettings(Settings):
    """How headers are read."""

    shard_size: int = Field(5_000, ge=1, description="arrivals per mapped task")
    max_shards: int = Field(
        1_000, ge=1, le=1_000, description="shards grow rather than exceed this (Airflow maps 1,024)"
    )
    in_flight: int = Field(64, ge=1, le=512, description="requests at a time in one task")
    requests_per_second: float | None = Field(
        None, gt=0, le=100_000, description="begun by one task at most, repeated ones not counted; null for no limit"
    )
    first_range_kib: int = Field(
        16, ge=1, le=4_096, description="of each object, in the first request; most headers end in it"
    )
    first_ranges: tuple[FirstRange, ...] = Field(
        (), description="other first ranges by prefix, see below; the longest prefix of a key counts"
    )
    max_header_mib: int = Field(16, ge=1, le=256, description="bytes read of one object before it is given up")
    request_timeout_seconds: float = Field(60, gt=0, le=300, description="of one try to read a range")
    retries: int = Field(
        5,
        ge=0,
        le=100,
        description="of reading a range, with backoff; none begins after (retries + 1) timeouts, or after five minutes",
    )
    sidecars: tuple[str, ...] = Field(
        (
            ".DS_Store", "._*", "Thumbs.db", "desktop.ini", "_SUCCESS", "*.txt", "*.md", "*.csv", "*.tsv", "*.json",
            "*.xml", "*.html", "*.htm", "*.pdf", "*.log", "*.md5", "*.sha256", "*.jpg", "*.jpeg", "*.png", "*.gif",
            "*.bmp", "*.sha1", "*.ini", "*.inf", "*.exe", "*.py",
        ),
        description="names (shell patterns) of files that lie beside an archive and were never DICOM",
    )  # fmt: skip

    @model_validator(mode="after")
    def _prefixes_differ(self) -> ParseSettings:
        prefixes = [first.prefix for first in self.first_ranges]
        twice = sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1})
        if twice:
            raise ValueError(f"first_ranges has the prefix {twice[0]!r} twice: remove one")
        return self

    @model_validator(mode="after")
    def _first_ranges_fit(self) -> ParseSettings:
        largest = max([self.first_range_kib, *(first.kib for first in self.first_ranges)])
        if largest > self.max_header_mib * 1024:
            raise ValueError(
                f"first ranges of {largest} KiB are above max_header_mib ({self.max_header_mib}): lower them"
            )
        if largest * self.in_flight > _IN_FLIGHT_KIB:
            raise ValueError(
                f"in_flight {self.in_flight} first ranges of {largest} KiB are more than {_IN_FLIGHT_KIB // 1024} MiB "
                f"at a time: set in_flight to {_IN_FLIGHT_KIB // largest} or lower, or ask for less"
            )
        return self


class Limits(Settings):
    """What HealthImaging takes; its published pages differ by age, so each number is a setting."""

    element_lengths: Annotated[dict[str, Annotated[int, Field(ge=1)]], AfterValidator(_lengths)] = Field(
        ELEMENT_LENGTHS,
        description="longest value by DICOM keyword, in characters; what is not given keeps its default",
    )
    related_series: int = Field(1_000_000, ge=1, description="highest NumberOfStudyRelatedSeries")
    related_instances: int = Field(1_000_000, ge=1, description="highest NumberOfStudyRelatedInstances")
    file_bytes: int = Field(10 * 1000**3, ge=1, description="largest file")
    files_per_job: int = Field(5_000, ge=1, description="most files in one batch")
    bytes_per_job: int = Field(10 * 1000**3, ge=1, description="most bytes in one batch")


class Validate(Settings):
    """Which findings stop an arrival."""

    grouping_conflict: Literal["reject", "majority", "accept"] = Field(
        "reject",
        description="when a grouping element differs within a study or series: quarantine all of it, only the smaller "
        "part, or import all and let the gate hold what becomes non-primary",
    )
    warn_only: tuple[Reason, ...] = Field(
        (Reason.INVALID_UID, Reason.UNKNOWN_TRANSFER_SYNTAX, Reason.UNDECODABLE_TEXT),
        description="reason codes that are noted on an accepted arrival instead of quarantining it",
    )

    @model_validator(mode="after")
    def _only_soft_reasons(self) -> Validate:
        hard = sorted(set(self.warn_only) - SOFT_REASONS)
        if hard:
            raise ValueError(
                f"warn_only: {', '.join(hard)} cannot be waved through; allowed are {', '.join(sorted(SOFT_REASONS))}"
            )
        return self


SOFT_REASONS = frozenset(
    {
        Reason.INVALID_UID,
        Reason.UNKNOWN_TRANSFER_SYNTAX,
        Reason.UNDECODABLE_TEXT,
        Reason.ISSUER_CONFLICT,
    }
)


class HealthImaging(Settings):
    """The data store and how jobs are run against it."""

    datastore_id: str = Field(pattern=r"^[0-9a-z]{32}$", description="32 characters")
    data_access_role_arn: str = Field(pattern=ROLE_ARN, description="role that HealthImaging assumes, see iam/")
    output_uri: Prefix = Field(description="s3://bucket/prefix/ for the jobs' manifests")
    aws_conn_id: str = Field("aws_default", description="Airflow connection for HealthImaging")
    region_name: str | None = Field(None, description="AWS region; without it that of the connection")
    input_owner_account_id: str | None = Field(
        None,
        pattern=r"^[0-9]{12}$",
        description="account that owns the staging (or in-place) bucket, if it is another one",
    )
    pool: str = Field("healthimaging_import", description="Airflow pool, sized to the service's concurrent jobs")
    poll_seconds: int = Field(30, ge=1, description="between two looks at a running job")
    job_timeout_minutes: float = Field(24 * 60, gt=0, description="how long a try waits; the next one reconnects")
    backoff_seconds: float = Field(30, gt=0, description="first pause after throttling or a quota refusal; it doubles")
    max_generations: int = Field(3, ge=1, description="jobs started for one batch when they end FAILED")


class Audit(Settings):
    """What it takes to release a study."""

    manifest_wait_seconds: float = Field(
        300, ge=0, description="a manifest may come after COMPLETED; no longer than this"
    )
    read_back_fraction: float = Field(
        0.0, ge=0, le=1, description="share of the image sets whose metadata is read back"
    )
    hold_incomplete_studies: bool = Field(
        True,
        description="hold a study when another file of it was quarantined, or did not come in with an earlier one; "
        "a file of this delivery that was rejected or is unaccounted for holds its study in any case",
    )
    harmless_warnings: tuple[str, ...] = Field(
        ("COERCION_OF_DATA_ELEMENTS", "ELEMENTS_DISCARDED", "INVALID_UID_FORMAT"),
        description="the service's warning types that do not hold a study; any other one does",
    )
    on_hold: OnHold = Field("hold", description=ON_HOLD)


class ImagingPipeline(Pipeline):
    """One imaging pipeline: source, store, schedule, policies, routes."""

    kind: Literal["imaging"] = Field(description="what travels")
    parse: ParseSettings = ParseSettings()
    limits: Limits = Limits()
    validation: Validate = Validate()
    healthimaging: HealthImaging
    audit: Audit = Audit()
    review: Review | None = Field(None, description="who answers, where audit.on_hold is review")
    notify: tuple[Notify, ...] = Field((), description="who is told of holds, failures and late deliveries, see below")
    healthlake: HealthLake | None = Field(None, description="where released studies are published as FHIR, see below")
    publish: Publish = Publish()
    plan: PlanSettings = PlanSettings()

    @model_validator(mode="after")
    def _tries_reach_the_last_generation(self) -> ImagingPipeline:
        self.check_generations("healthimaging.max_generations", self.healthimaging.max_generations)
        if self.healthlake is not None:
            self.check_generations("healthlake.max_generations", self.healthlake.max_generations)
        return self

    @model_validator(mode="after")
    def _somebody_is_asked(self) -> ImagingPipeline:
        check_review(self.audit.on_hold, self.review)
        return self

    @model_validator(mode="after")
    def _first_ranges_are_of_the_source(self) -> ImagingPipeline:
        source = S3Uri.parse(self.source.uri).key
        for first in self.parse.first_ranges:
            if not first.prefix.startswith(source):
                raise ValueError(
                    f"parse.first_ranges: no key of the source starts with {first.prefix!r}: write it from the bucket "
                    f"on, as {source + first.prefix.lstrip('/')!r}"
                )
        return self

    @model_validator(mode="after")
    def _regions_agree(self) -> ImagingPipeline:
        return self.in_region(self.healthimaging.region_name)

    def in_region(self, region: str | None) -> ImagingPipeline:
        """Return the pipeline with the region of its HealthImaging data store; raise ValueError for a contradiction."""
        written = self.publish.dicomweb_region
        if written and region and written != region:
            raise ValueError(
                f"publish.dicomweb_region is {written!r}, but the HealthImaging data store is in {region!r}: "
                f"leave dicomweb_region out, or correct healthimaging.region_name or its connection's region"
            )
        if region == self.healthimaging.region_name:
            return self
        store = self.healthimaging.model_copy(update={"region_name": region})
        return self.model_copy(update={"healthimaging": store})

    @property
    def datastore_id(self) -> str:
        """The HealthImaging data store."""
        return self.healthimaging.datastore_id

    def own_prefixes(self) -> dict[str, str]:
        """Return the prefixes that the pipeline writes below, by the field that names each."""
        own = super().own_prefixes() | {"output_uri": self.healthimaging.output_uri}
        return own if self.healthlake is None else own | {"healthlake.output_uri": self.healthlake.output_uri}

    def connections(self) -> set[str]:
        """Return the Airflow connections that the pipeline names."""
        named = super().connections() | {self.healthimaging.aws_conn_id}
        return named if self.healthlake is None else named | {self.healthlake.aws_conn_id}
