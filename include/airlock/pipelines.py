"""Pipelines: one YAML file each under include/pipelines/, read into typed settings before any run starts.

An error names the file, the field, the value and the fix. ``json_schema()`` is published as docs/pipeline.schema.json,
so that an editor can check a file while it is written.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from airlock.reasons import Reason
from airlock.s3uri import S3Uri, S3UriError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = r"[a-z][a-z0-9_-]{0,63}"


class PipelineError(ValueError):
    """A pipeline file is wrong; the message is what the user reads."""


def _prefix(text: str) -> str:
    try:
        uri = S3Uri.parse(text)
    except S3UriError as error:
        raise ValueError(str(error)) from error
    if not uri.key:
        raise ValueError(f"{text!r} is a bare bucket: give a prefix below it, ending in '/'")
    if not uri.key.endswith("/"):
        raise ValueError(f"{text!r} must end in '/': without it, .../1.2.3 would take in .../1.2.34/ too")
    return text


def _timezone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{text!r} is no time zone: write one as Europe/Berlin or UTC") from None
    return text


def _lengths(given: dict[str, int]) -> dict[str, int]:
    unknown = sorted(given.keys() - ELEMENT_LENGTHS.keys())
    if unknown:
        raise ValueError(f"{', '.join(unknown)} has no limit; those that have are {', '.join(sorted(ELEMENT_LENGTHS))}")
    return ELEMENT_LENGTHS | given


Prefix = Annotated[str, AfterValidator(_prefix)]

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


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Settings):
    """Where arrivals come from, and which of them belong to a data interval."""

    uri: Prefix = Field(description="s3://bucket/prefix/ that holds the archive")
    aws_conn_id: str = Field("aws_default", description="Airflow connection for the source and the workspace")
    window: Literal["last_modified", "key_date"] = Field(
        "last_modified",
        description="what places an arrival in a data interval: S3's last-modified, or a date in the key",
    )
    key_date_pattern: str = Field(
        r"(?P<year>\d{4})/(?P<month>\d{2})/(?P<day>\d{2})/",
        description="with window: key_date, a regular expression with the groups year, month and day",
    )
    lookback_hours: float = Field(
        24,
        ge=0,
        description="with window: last_modified, how far before its interval a run also looks for unsettled arrivals: "
        "an upload in parts carries the time it began, and shows up only when it ends",
    )

    @model_validator(mode="after")
    def _pattern_has_its_groups(self) -> Source:
        try:
            groups = set(re.compile(self.key_date_pattern).groupindex)
        except re.error as error:
            raise ValueError(f"key_date_pattern is no regular expression: {error}") from error
        if not {"year", "month", "day"} <= groups:
            raise ValueError("key_date_pattern needs the named groups year, month and day")
        return self


class Receive(_Settings):
    """When a delivery counts as complete."""

    mode: Literal["quiet_period", "marker", "manifest"] = Field(
        "quiet_period", description="what says that a delivery is complete"
    )
    quiet_seconds: float = Field(300, ge=0, description="quiet_period: no object newer than this")
    marker: str = Field("_SUCCESS", min_length=1, description="marker: the object's name below the prefix")
    manifest: str = Field(
        "delivery.json",
        min_length=1,
        description='manifest: a JSON object below the prefix, {"objects": 1200, "bytes": 5}',
    )
    poll_seconds: float = Field(30, gt=0, description="between two looks at the delivery")
    timeout_minutes: float = Field(720, gt=0, description="a delivery that is not complete by then fails the run")


class ParseSettings(_Settings):
    """How headers are read."""

    shard_size: int = Field(5_000, ge=1, description="arrivals per mapped task")
    max_shards: int = Field(
        1_000, ge=1, le=1_000, description="shards grow rather than exceed this (Airflow maps 1,024)"
    )
    in_flight: int = Field(64, ge=1, le=512, description="requests at a time in one task")
    first_range_kib: int = Field(16, ge=1, description="of each object, in the first request; most headers end in it")
    max_header_mib: int = Field(16, ge=1, description="bytes read of one object before it is given up")
    request_timeout_seconds: float = Field(60, gt=0, description="of one try to read a range")
    retries: int = Field(5, ge=0, description="of reading a range, with backoff, within (retries + 1) timeouts in all")
    sidecars: tuple[str, ...] = Field(
        (
            ".DS_Store", "._*", "Thumbs.db", "desktop.ini", "_SUCCESS", "*.txt", "*.md", "*.csv", "*.tsv", "*.json",
            "*.xml", "*.html", "*.htm", "*.pdf", "*.log", "*.md5", "*.sha256", "*.jpg", "*.jpeg", "*.png", "*.gif",
            "*.bmp", "*.sha1", "*.ini", "*.inf", "*.exe", "*.py",
        ),
        description="names (shell patterns) of files that lie beside an archive and were never DICOM",
    )  # fmt: skip


class Limits(_Settings):
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


class Validate(_Settings):
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


class Staging(_Settings):
    """How a batch gets a prefix of its own."""

    uri: Prefix = Field(description="s3://bucket/prefix/ for the batches' copies")
    mode: Literal["copy", "in_place"] = Field(
        "copy",
        description="in_place imports a prefix without copying where it holds exactly one batch's files, else copies",
    )
    copies_in_flight: int = Field(16, ge=1, le=256, description="server-side copies at a time")


class HealthImaging(_Settings):
    """The data store and how jobs are run against it."""

    datastore_id: str = Field(pattern=r"^[0-9a-z]{32}$", description="32 characters")
    data_access_role_arn: str = Field(
        pattern=r"^arn:aws(-[^:]+)?:iam::[0-9]{12}:role/.+$", description="role that HealthImaging assumes, see iam/"
    )
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


class Audit(_Settings):
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


class Route(_Settings):
    """One destination of released study contracts."""

    name: str = Field(pattern=rf"^{NAME}$", description="shown in logs")
    uri: Prefix = Field(description="s3://bucket/prefix/ that receives one JSON contract per study and revision")
    aws_conn_id: str = Field("aws_default", description="Airflow connection for this bucket")


class Schedule(_Settings):
    """When runs start by themselves."""

    cron: str | None = Field(
        "0 2 * * *",
        pattern=r"^(@[a-z]+|\S+( +\S+){4,5})$",
        description="nightly by default; null runs only by hand, backfill or event",
    )
    timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        "UTC", description="of cron and start_date, an IANA name"
    )
    start_date: date = Field(date(2026, 1, 1), description="the first interval; backfills cannot begin before it")
    catchup: bool = Field(False, description="run every interval since start_date by itself, once switched on")
    max_active_runs: int = Field(1, ge=1, description="runs of this pipeline at a time")


class Pipeline(_Settings):
    """One pipeline: source, store, schedule, policies, routes."""

    version: Literal["airlock.pipeline/1"] = Field(alias="schema")
    name: str = Field(pattern=rf"^{NAME}$", description="also the DAG's id")
    kind: Literal["imaging"] = Field(description="what travels")
    description: str = Field("", description="shown in the UI")
    tags: tuple[str, ...] = Field((), description="of the DAG")
    source: Source
    receive: Receive = Receive()
    parse: ParseSettings = ParseSettings()
    limits: Limits = Limits()
    validation: Validate = Validate()
    staging: Staging
    healthimaging: HealthImaging
    audit: Audit = Audit()
    routes: tuple[Route, ...] = Field((), description="where contracts go, see below")
    workspace: Prefix = Field(description="s3://bucket/prefix/ for the runs' datasets and reports")
    schedule: Schedule = Schedule()
    retries: int = Field(3, ge=2, description="of every task; fewer than 2 lose to a race in Airflow's scheduler")
    retry_delay_seconds: float = Field(60, ge=0, description="before a task's next try")

    @model_validator(mode="after")
    def _own_folders_are_apart(self) -> Pipeline:
        ours = {
            "workspace": self.workspace,
            "staging.uri": self.staging.uri,
            "output_uri": self.healthimaging.output_uri,
        }
        ours |= {f"routes.{route.name}": route.uri for route in self.routes}
        for field, uri in ours.items():
            # Runs and batches lie in folders of the pipeline's name.
            if f"{uri}{self.name}/".startswith(self.source.uri):
                raise ValueError(
                    f"{field} {uri!r} lies below the source {self.source.uri!r}: its files would arrive again"
                )
        names = [route.name for route in self.routes]
        if len(set(names)) < len(names):
            raise ValueError(f"two routes have one name: {', '.join(sorted(names))}")
        return self

    @model_validator(mode="after")
    def _tries_reach_the_last_generation(self) -> Pipeline:
        generations = self.healthimaging.max_generations
        if generations > self.retries + 1:
            raise ValueError(
                f"healthimaging.max_generations is {generations}, but {self.retries} retries make {self.retries + 1} "
                f"generations at most: set retries to {generations - 1} or more"
            )
        return self

    def __str__(self) -> str:
        """Return the name: Airflow writes what a mapped task is given into the serialized DAG."""
        return self.name

    @property
    def retry_delay(self) -> timedelta:
        """The delay before a task's next try."""
        return timedelta(seconds=self.retry_delay_seconds)


def load_pipeline(path: Path) -> Pipeline:
    """Read one pipeline file.

    Raises
    ------
    PipelineError
        If it cannot be read, is no YAML, or a field is missing, unknown or wrong; every wrong field is named.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or 2026-02-30
        raise PipelineError(f"{path.name}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{path.name}: a pipeline is a mapping of fields, as in include/pipelines/sample.yaml")
    try:
        return Pipeline.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors())
        raise PipelineError(f"{path.name}: {problems}") from None


def _problem(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "pipeline"
    if item["type"] == "extra_forbidden":
        return f"unknown field {where!r}: remove it, or see docs/pipelines.md for the right name"
    if item["type"] == "missing":
        return f"field {where!r} is missing: add it"
    message = item["msg"].removeprefix("Value error, ")
    value = item.get("input")
    shown = f" (it is {value!r})" if isinstance(value, str | int | float | bool) else ""
    return f"field {where!r}: {message}{shown}"


def load_pipelines(folder: Path) -> tuple[dict[str, Pipeline], list[PipelineError]]:
    """Read every ``*.yaml`` and ``*.yml`` of a folder.

    Returns
    -------
    pipelines
        The good ones by name.
    problems
        One error per bad file; of two pipelines with one name neither is used.
    """
    found: dict[str, list[tuple[Path, Pipeline]]] = {}
    problems: list[PipelineError] = []
    for path in _files(folder):
        try:
            pipeline = load_pipeline(path)
        except PipelineError as error:
            problems.append(error)
        else:
            found.setdefault(pipeline.name, []).append((path, pipeline))
    for name, entries in found.items():
        if len(entries) > 1:
            files = " and ".join(path.name for path, _ in entries)
            problems.append(
                PipelineError(f"two pipelines are named {name!r}, in {files}: rename one; neither runs until then")
            )
    return {name: entries[0][1] for name, entries in found.items() if len(entries) == 1}, problems


def _files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        raise PipelineError(f"{folder} is no folder: set AIRLOCK_PIPELINES to the folder of the pipeline files")
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".yml"})
    except OSError as error:
        raise PipelineError(
            f"{folder} cannot be read: {error}: correct its permissions, or set AIRLOCK_PIPELINES to another folder"
        ) from error


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a pipeline file."""
    return Pipeline.model_json_schema(by_alias=True)
