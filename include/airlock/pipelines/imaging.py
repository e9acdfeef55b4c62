"""``kind: imaging``: a DICOM archive into HealthImaging and, if a HealthLake store is set, its studies as FHIR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from airlock.pipelines.brake import BRAKE, Brake, BrakeSetting
from airlock.pipelines.classify import Classify, check_classify
from airlock.pipelines.declared import DeclaredCount
from airlock.pipelines.edge import Edge
from airlock.pipelines.healthlake import HealthLake, Publish
from airlock.pipelines.notify import Notify
from airlock.pipelines.parts import ROLE_ARN, Pipeline, Schedule, Source
from airlock.pipelines.plan import PlanSettings
from airlock.pipelines.review import ON_HOLD, OnHold, Review, check_review
from airlock.pipelines.settings import Prefix, Settings
from airlock.reasons import Reason
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.pipelines.buckets import BucketSettings


def _complete_lengths(given: dict[str, int]) -> dict[str, int]:
    unknown = sorted(given.keys() - ELEMENT_LENGTHS.keys())
    if unknown:
        raise ValueError(f"{', '.join(unknown)} has no limit: use one of {', '.join(sorted(ELEMENT_LENGTHS))}")
    return ELEMENT_LENGTHS | given


# In characters; HealthImaging developer guide, "Element constraints". A pipeline file replaces single values.
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


MOST_SIBLING_STUDIES = 100  # that one unread file may hold; a delivery's folders are remembered with one more
_IN_FLIGHT_KIB = 256 * 1024  # most KiB of first ranges in flight, since a task holds them in memory


class FirstRange(Settings):
    """The first range of objects below a prefix, for archives with large values early in the header."""

    prefix: str = Field(min_length=1, description="start of whole keys, for example archive/mr/")
    kib: int = Field(ge=1, le=4_096, description="size of the first request for each object")


class ParseSettings(Settings):
    """How headers are read."""

    shard_size: int = Field(25_000, ge=1, description="arrivals per mapped task")
    max_shards: int = Field(
        1_000,
        ge=1,
        le=1_000,
        description="most shards; with more arrivals the shards grow (Airflow maps 1,024 tasks at most)",
    )
    in_flight: int = Field(64, ge=1, le=512, description="requests of one task at the same time")
    requests_per_second: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="most requests that one task starts, repeated ones not counted; null for no limit",
    )
    first_range_kib: int = Field(
        16,
        ge=1,
        le=4_096,
        description="smallest first request for an object; folders of longer headers get larger ones",
    )
    first_ranges: tuple[FirstRange, ...] = Field(
        (), description="first ranges by prefix instead of learnt ones, see below; the longest matching prefix applies"
    )
    max_header_mib: int = Field(
        16, ge=1, le=256, description="most bytes read of one object; a longer header is quarantined"
    )
    request_timeout_seconds: float = Field(60, gt=0, le=300, description="timeout of one try to read a range")
    retries: int = Field(
        5,
        ge=0,
        le=100,
        description="retries of reading a range, with backoff; none starts after (retries + 1) timeouts or "
        "five minutes",
    )
    sidecars: tuple[str, ...] = Field(
        (
            ".DS_Store", "._*", "Thumbs.db", "desktop.ini", "_SUCCESS", "*.txt", "*.md", "*.csv", "*.tsv", "*.json",
            "*.xml", "*.html", "*.htm", "*.pdf", "*.log", "*.md5", "*.sha256", "*.jpg", "*.jpeg", "*.png", "*.gif",
            "*.bmp", "*.sha1", "*.ini", "*.inf", "*.exe", "*.py",
        ),
        description="names (shell patterns) of files that accompany an archive and are not DICOM",
    )  # fmt: skip

    @model_validator(mode="after")
    def _require_distinct_prefixes(self) -> ParseSettings:
        prefixes = [first.prefix for first in self.first_ranges]
        twice = sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1})
        if twice:
            raise ValueError(f"first_ranges has the prefix {twice[0]!r} twice: remove one")
        return self

    @model_validator(mode="after")
    def _require_first_ranges_that_fit(self) -> ParseSettings:
        largest = max([self.first_range_kib, *(first.kib for first in self.first_ranges)])
        if largest > self.max_header_mib * 1024:
            raise ValueError(f"first ranges of {largest} KiB exceed max_header_mib ({self.max_header_mib}): lower them")
        if largest * self.in_flight > _IN_FLIGHT_KIB:
            raise ValueError(
                f"in_flight {self.in_flight} first ranges of {largest} KiB need more than {_IN_FLIGHT_KIB // 1024} MiB "
                f"of memory: set in_flight to {_IN_FLIGHT_KIB // largest} or lower, or lower the first ranges"
            )
        return self


class Limits(Settings):
    """HealthImaging's limits; AWS's pages contradict each other, so each limit is a setting."""

    element_lengths: Annotated[dict[str, Annotated[int, Field(ge=1)]], AfterValidator(_complete_lengths)] = Field(
        ELEMENT_LENGTHS,
        description="longest value by DICOM keyword, in characters; keywords that are not given keep their defaults",
    )
    related_series: int = Field(1_000_000, ge=1, description="highest NumberOfStudyRelatedSeries")
    related_instances: int = Field(1_000_000, ge=1, description="highest NumberOfStudyRelatedInstances")
    file_bytes: int = Field(10 * 1000**3, ge=1, description="largest file")
    files_per_job: int = Field(5_000, ge=1, description="most files in one batch")
    bytes_per_job: int = Field(10 * 1000**3, ge=1, description="most bytes in one batch")


class Validate(Settings):
    """The findings that quarantine an arrival."""

    grouping_conflict: Literal["reject", "majority", "accept"] = Field(
        "reject",
        description="if a grouping element differs within a study or series: quarantine all of it (reject), "
        "quarantine only the smaller part (majority), or import all and let the gate hold "
        "non-primary files (accept); PatientID and IssuerOfPatientID are always rejected",
    )
    warn_only: tuple[Reason, ...] = Field(
        (Reason.INVALID_UID, Reason.UNKNOWN_TRANSFER_SYNTAX, Reason.UNDECODABLE_TEXT),
        description="reason codes that are noted on an accepted arrival instead of quarantining it",
    )
    dedupe: Literal["stored", "hash"] = Field(
        "stored",
        description="the proof that two copies of an instance with different etags are the same: the checksums that S3 "
        "stores (stored), or these and a hash of both copies, which are read whole (hash)",
    )
    dedupe_file_mib: int = Field(
        512,
        ge=1,
        le=10_240,
        description="with dedupe: hash, the largest copy in MiB that is read; a larger one proves nothing",
    )
    dedupe_run_gib: float = Field(
        64, gt=0, le=10_240, description="with dedupe: hash, most GiB that a run reads; further copies prove nothing"
    )
    changed_header: Literal["duplicate", "hold"] = Field(
        "duplicate",
        description="a second copy with the same pixels and identity, but another header: set it aside as a duplicate, "
        "or hold its study until a person decides",
    )

    @model_validator(mode="after")
    def _require_soft_reasons(self) -> Validate:
        hard = sorted(set(self.warn_only) - SOFT_REASONS)
        if hard:
            raise ValueError(
                f"warn_only: {', '.join(hard)} must not be accepted: use only {', '.join(sorted(SOFT_REASONS))}"
            )
        return self


SOFT_REASONS = frozenset(
    {
        Reason.INVALID_UID,
        Reason.UNKNOWN_TRANSFER_SYNTAX,
        Reason.UNDECODABLE_TEXT,
    }
)


# Two jobs that follow each other fill at least one limit, in files or in bytes. So what fills 250 jobs to the one limit
# and 250 to the other needs at most 1,000, which is as many as a run maps.
_FULL_JOBS_OF_A_WAVE = 250


class Waves(Settings):
    """How a delivery that is too large for one run is cut."""

    objects: int = Field(
        1_000_000,
        ge=1,
        le=5_000_000,
        description="most objects that one run takes of a delivery; a larger delivery is listed once and cut at folder "
        "borders into several runs, of which schedule.max_active_runs are active at the same time",
    )
    hold_split: bool = Field(
        False,
        description="hold a study until all waves with objects in its folder right below the source have read their "
        "files, so that a study in two waves is released once; otherwise each wave may release its part as a revision",
    )


class ImagingSchedule(Schedule):
    """The schedule of an imaging pipeline's runs."""

    # With two, the headers of a wave are read while the wave before is staged and imported.
    max_active_runs: int = Field(2, ge=1, description="runs of this pipeline at the same time")


class HealthImaging(Settings):
    """The data store and its import jobs."""

    datastore_id: str = Field(pattern=r"^[0-9a-z]{32}$", description="32 characters")
    data_access_role_arn: str = Field(pattern=ROLE_ARN, description="role that HealthImaging assumes, see iam/")
    output_uri: Prefix = Field(description="s3://bucket/prefix/ for the jobs' manifests")
    aws_conn_id: str = Field("aws_default", description="Airflow connection for HealthImaging")
    region_name: str | None = Field(None, description="AWS region; by default the connection's")
    input_owner_account_id: str | None = Field(
        None,
        pattern=r"^[0-9]{12}$",
        description="account that owns the staging (or in-place) bucket, if it is not the data store's account",
    )
    pool: str = Field("healthimaging_import", description="Airflow pool with as many slots as the service runs jobs")
    poll_seconds: int = Field(30, ge=1, description="time between two checks of a running job")
    job_timeout_minutes: float = Field(
        24 * 60, gt=0, description="maximum wait per attempt; a retry reconnects to the same job"
    )
    backoff_seconds: float = Field(
        30, gt=0, description="first pause after throttling or a quota refusal; it doubles each time"
    )
    max_generations: int = Field(
        3, ge=1, description="most jobs started for one batch; the next one starts only after FAILED"
    )


class Audit(Settings):
    """The conditions for releasing a study."""

    manifest_wait_seconds: float = Field(
        300, ge=0, description="longest wait for a manifest after the job is COMPLETED"
    )
    read_back_fraction: float = Field(
        0.0, ge=0, le=1, description="share of the image sets whose metadata is read back and compared"
    )
    hold_incomplete_studies: bool = Field(
        True,
        description="hold a study if another of its files was quarantined or not imported by an earlier run; "
        "a file of this delivery that was rejected or is unaccounted for always holds its study",
    )
    unread_siblings_studies: int = Field(
        1,
        ge=0,
        le=MOST_SIBLING_STUDIES,
        description="a file without a readable StudyInstanceUID holds the studies of the accepted files in its folder, "
        "or in the nearest folder above it that has any, if they are at most this many; 0: such a file holds no study "
        "by its folder",
    )
    transient_nights: int = Field(
        3,
        ge=0,
        le=100,
        description="for how many runs an object that S3 refuses, or that changed or vanished, is tried again before "
        "its study is held for it by sibling_unread; until then the study waits with waiting_for_file",
    )
    harmless_warnings: tuple[str, ...] = Field(
        ("COERCION_OF_DATA_ELEMENTS", "ELEMENTS_DISCARDED", "INVALID_UID_FORMAT"),
        description="warning types of the service that do not hold a study; any other type does",
    )
    declared_count: DeclaredCount = Field(
        DeclaredCount(),
        description="what follows if a study has fewer instances than its source declares, see below",
    )
    on_hold: OnHold = Field("hold", description=ON_HOLD)
    brake: BrakeSetting = Field(Brake(), description=BRAKE)


@dataclass(frozen=True)
class Publication:
    """The settings with which an imaging pipeline publishes FHIR resources in HealthLake."""

    resources_folder: ClassVar[str] = "fhir"  # of a run's workspace: the datasets about the resources that it imports

    name: str  # of the pipeline
    workspace: str
    healthlake: HealthLake
    plan: PlanSettings
    source: Source
    buckets: dict[str, BucketSettings]  # of the pipeline, by the buckets' names

    @property
    def datastore_id(self) -> str:
        """The id of the HealthLake data store."""
        return self.healthlake.datastore_id

    def bucket_settings(self) -> dict[str, BucketSettings]:
        """Return the settings of each bucket that the pipeline uses, by its name."""
        return self.buckets


class ImagingPipeline(Pipeline):
    """An imaging pipeline."""

    contract_schema: ClassVar[str] = "airlock.study/1"
    report_lists: ClassVar[tuple[str, ...]] = ("dispositions.csv",)
    has_studies: ClassVar[bool] = True

    kind: Literal["imaging"] = Field(description="the kind of data that the pipeline imports")
    parse: ParseSettings = ParseSettings()
    limits: Limits = Limits()
    validation: Validate = Validate()
    classify: tuple[Classify, ...] = Field(
        (), max_length=1_000, description="rules that set labels on studies and series for routes, see below"
    )
    waves: Waves = Waves()
    schedule: ImagingSchedule = ImagingSchedule()
    healthimaging: HealthImaging
    audit: Audit = Audit()
    review: Review | None = Field(None, description="who answers reviews; required if audit.on_hold is review")
    notify: tuple[Notify, ...] = Field(
        (), description="who is notified of holds, failures and late deliveries, see below"
    )
    healthlake: HealthLake | None = Field(
        None, description="the HealthLake data store in which released studies are published as FHIR, see below"
    )
    publish: Publish = Publish()
    plan: PlanSettings = PlanSettings()
    edge: Edge | None = Field(
        None, description="the edge that fills the source, which is told what became of its objects, see below"
    )

    @model_validator(mode="after")
    def _require_a_queue_of_the_edge(self) -> ImagingPipeline:
        others = () if self.arrivals is None else (self.arrivals.queue_url, self.arrivals.dead_letter_queue_url)
        if self.edge is not None and self.edge.queue_url in others:
            raise ValueError(
                "edge.queue_url is also a queue of arrivals, whose reader would take the edge's messages for poison: "
                "give the edge a queue of its own"
            )
        return self

    @model_validator(mode="after")
    def _require_retries_for_all_generations(self) -> ImagingPipeline:
        self.check_generations("healthimaging.max_generations", self.healthimaging.max_generations)
        if self.healthlake is not None:
            self.check_generations("healthlake.max_generations", self.healthlake.max_generations)
            self.choose_output_key(self.healthlake.output_uri, self.healthlake.kms_key_id)
        return self

    @model_validator(mode="after")
    def _require_reviewer(self) -> ImagingPipeline:
        check_review(self.audit.on_hold, self.review)
        return self

    @model_validator(mode="after")
    def _require_known_fields_in_rules(self) -> ImagingPipeline:
        check_classify(self.classify, self.contract_schema)
        return self

    @model_validator(mode="after")
    def _require_orders_of_each_site(self) -> ImagingPipeline:
        if self.publish.patient_match is not None:
            self.publish.patient_match.check_sites(has_sites=self.source.site_pattern is not None)
        return self

    @model_validator(mode="after")
    def _require_first_ranges_of_the_source(self) -> ImagingPipeline:
        source = S3Uri.parse(self.source.uri).key
        for first in self.parse.first_ranges:
            if not first.prefix.startswith(source):
                raise ValueError(
                    f"parse.first_ranges: no key of the source starts with {first.prefix!r}: write the whole key, for "
                    f"example {source + first.prefix.lstrip('/')!r}"
                )
        return self

    @model_validator(mode="after")
    def _require_one_region(self) -> ImagingPipeline:
        return self.in_region(self.healthimaging.region_name)

    def in_region(self, region: str | None) -> ImagingPipeline:
        """Return the pipeline with the region of its HealthImaging data store.

        Raises
        ------
        ValueError
            If publish.dicomweb_region is another region.
        """
        written = self.publish.dicomweb_region
        if written and region and written != region:
            raise ValueError(
                f"publish.dicomweb_region is {written!r}, but the HealthImaging data store is in {region!r}: "
                f"remove dicomweb_region, or correct healthimaging.region_name or its connection's region"
            )
        if region == self.healthimaging.region_name:
            return self
        store = self.healthimaging.model_copy(update={"region_name": region})
        return self.model_copy(update={"healthimaging": store})

    @property
    def asks_people(self) -> bool:
        """Whether people are asked about what its gate holds."""
        return self.audit.on_hold == "review"

    @property
    def wave_limits(self) -> tuple[int, int]:
        """The most objects and bytes of a wave."""
        files, size = (_FULL_JOBS_OF_A_WAVE * each for each in (self.limits.files_per_job, self.limits.bytes_per_job))
        return min(self.waves.objects, files), size

    @property
    def datastore_id(self) -> str:
        """The id of the HealthImaging data store."""
        return self.healthimaging.datastore_id

    @property
    def datastore_ids(self) -> set[str]:
        """The ids of the HealthImaging data store and of the HealthLake data store in which studies are published."""
        return {self.datastore_id} | ({self.healthlake.datastore_id} if self.healthlake is not None else set())

    @property
    def publication(self) -> Publication | None:
        """The settings of what is published in HealthLake; None without ``healthlake``."""
        if self.healthlake is None:
            return None
        settings = self.bucket_settings()
        return Publication(self.name, self.workspace, self.healthlake, self.plan, self.source, settings)

    def own_prefixes(self) -> dict[str, str]:
        """Return the prefixes that the pipeline writes to, by the name of their field."""
        own = super().own_prefixes() | {"output_uri": self.healthimaging.output_uri}
        return own if self.healthlake is None else own | {"healthlake.output_uri": self.healthlake.output_uri}

    def addresses(self) -> dict[str, str]:
        """Return the addresses on S3 that the pipeline reads or writes, by the name of their field."""
        lists = {
            "audit.declared_count.list_uri": self.audit.declared_count and self.audit.declared_count.list_uri,
            "publish.patient_match": self.publish.patient_match and self.publish.patient_match.crosswalk,
        }
        return super().addresses() | {field: uri for field, uri in lists.items() if uri}

    def connections(self) -> set[str]:
        """Return the Airflow connections that the pipeline names."""
        others = (section.aws_conn_id for section in (self.healthlake, self.edge) if section is not None)
        return super().connections() | {self.healthimaging.aws_conn_id, *others}
