"""The sections that pipelines of every kind have, such as source, receive, staging and schedule."""

from __future__ import annotations

import re
from datetime import date, timedelta
from math import ceil
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from airlock.pipelines.arrivals import Arrivals
from airlock.pipelines.buckets import BucketSettings, check_buckets, select_settings
from airlock.pipelines.cron import check_cron
from airlock.pipelines.order import Order
from airlock.pipelines.review import Review
from airlock.pipelines.routes import MOST_SETTLE_MINUTES, Route, Routing, check_routes
from airlock.pipelines.rules import Pattern
from airlock.pipelines.settings import NAME, Prefix, Settings
from airlock.pipelines.sweep import Sweep
from airlock.storage.s3uri import S3Uri

_UPLOAD_HOURS = 24  # assumed duration of a multipart upload
_LOOKBACK_DAYS = 3
_MOST_DAYS = 366
_MOST_HOURS = 24 * _MOST_DAYS
ROLE_ARN = r"^arn:aws(-[^:]+)?:iam::[0-9]{12}:role/.+$"


def check_timezone(text: str) -> str:
    """Return the name of a time zone.

    Raises
    ------
    ValueError
        If it is not an IANA name.
    """
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{text!r} is not a time zone: write an IANA name, for example Europe/Berlin or UTC") from None
    return text


def _named_groups(field: str, pattern: str) -> set[str]:
    """Return the names of a pattern's groups.

    Raises
    ------
    ValueError
        If it is not a regular expression; the text names the field.
    """
    try:
        return set(re.compile(pattern).groupindex)
    except re.error as error:
        raise ValueError(f"{field} is not a regular expression: {error}") from error


REVIEW_SUFFIX = "__review"  # of the name of the DAG that applies people's answers, after the pipeline's
SWEEP_SUFFIX = "__sweep"  # of the name of the DAG that sweeps


class Source(Settings):
    """The archive, and the rule that assigns its objects to data intervals."""

    uri: Prefix = Field(description="s3://bucket/prefix/ that holds the archive")
    aws_conn_id: str = Field("aws_default", description="Airflow connection for the source and the workspace")
    window: Literal["last_modified", "key_date"] = Field(
        "last_modified",
        description="the time that assigns an arrival to a data interval: S3's last-modified, or a date in the key, "
        "read as a day in schedule.timezone",
    )
    key_date_pattern: str = Field(
        r"(?P<year>\d{4})/(?P<month>\d{2})/(?P<day>\d{2})/",
        description="with window: key_date, a regular expression with the groups year, month and day",
    )
    lookback_hours: float = Field(
        _UPLOAD_HOURS,
        ge=0,
        le=_MOST_HOURS,
        description="with window: last_modified, how far before its interval a run looks for unsettled "
        "arrivals; since a multipart upload is dated at its start but listed at its end",
    )
    lookback_days: int = Field(
        _LOOKBACK_DAYS,
        ge=1,
        le=_MOST_DAYS,
        description="with window: key_date, how many days before its own a scheduled run looks for unsettled "
        "arrivals; since an object may be stored below a day that has passed",
    )
    owed_days: float = Field(
        14,
        gt=0,
        le=_MOST_DAYS,
        description="how long runs try again to take an object that was given back or out of reach; then it is "
        "overdue, and people are notified",
    )
    listing: Literal["s3", "inventory"] = Field(
        "s3",
        description="list the objects in S3, or read the newest S3 Inventory if the archive is too large to "
        "list each time; a later run finds objects newer than the inventory",
    )
    listings: int = Field(
        8,
        ge=1,
        le=64,
        description="with listing: s3, ranges of keys that are listed at the same time, by receive, buffer and sweep; "
        "1 for a server that does not list keys in order",
    )
    inventory_uri: Prefix | None = Field(
        None,
        description="with listing: inventory, the folder of the inventory's configuration, "
        "s3://bucket/prefix/source-bucket/configuration/",
    )
    inventory_max_age_hours: float = Field(
        48,
        gt=0,
        le=_MOST_HOURS,
        description="with listing: inventory, the greatest age of an inventory; the run waits for a newer one",
    )
    order: Order | None = Field(
        None, description="which of two contents of a FHIR resource is newer; required for clinical and ccda, see below"
    )

    site_pattern: Pattern | None = Field(
        None,
        description="a regular expression, searched in the key, whose group site names the site of an object, which "
        "totals, reports and the brake then count by; null: the source is one site",
    )

    @model_validator(mode="after")
    def _require_site_group(self) -> Source:
        if self.site_pattern is not None and "site" not in _named_groups("site_pattern", self.site_pattern):
            raise ValueError(
                "site_pattern has no group named site: write it, for example ^archive/(?P<site>[^/]+)/, or remove "
                "site_pattern"
            )
        return self

    @model_validator(mode="after")
    def _require_date_groups(self) -> Source:
        if not {"year", "month", "day"} <= _named_groups("key_date_pattern", self.key_date_pattern):
            raise ValueError("key_date_pattern needs the named groups year, month and day")
        return self

    @model_validator(mode="after")
    def _refuse_lookback_of_the_other_window(self) -> Source:
        if self.window == "key_date" and self.lookback_hours != _UPLOAD_HOURS:
            raise ValueError(
                f"lookback_hours {self.lookback_hours:g} has no effect, because window: key_date compares days: "
                f"write lookback_days instead"
            )
        if self.window == "last_modified" and self.lookback_days != _LOOKBACK_DAYS:
            raise ValueError(
                f"lookback_days {self.lookback_days} has no effect with window: last_modified: "
                f"write lookback_hours instead"
            )
        return self

    @model_validator(mode="after")
    def _require_complete_inventory(self) -> Source:
        if (self.listing == "inventory") != (self.inventory_uri is not None):
            raise ValueError("listing: inventory and inventory_uri belong together: give both or neither")
        if self.inventory_uri is not None and self.inventory_uri.startswith(self.uri):
            raise ValueError(
                f"inventory_uri {self.inventory_uri!r} is inside uri {self.uri!r}, so its files would be imported: "
                f"move the inventory"
            )
        if self.listing == "inventory":
            self._require_lookback_over_inventory(self.inventory_max_age_hours + _UPLOAD_HOURS)
        return self

    def _require_lookback_over_inventory(self, hours: float) -> None:
        by_day = self.window == "key_date"
        given, needed = (self.lookback_days, ceil(hours / 24)) if by_day else (self.lookback_hours, hours)
        if given < needed:
            raise ValueError(
                f"{'lookback_days' if by_day else 'lookback_hours'} {given:g} would miss objects, because an inventory "
                f"may be {self.inventory_max_age_hours:g} hours old and a multipart upload may take {_UPLOAD_HOURS} "
                f"hours: make it {needed:g} or more"
            )


class Receive(Settings):
    """The condition under which a delivery is complete."""

    mode: Literal["quiet_period", "marker", "manifest", "folder_manifests"] = Field(
        "quiet_period",
        description="the sign that a delivery is complete; with folder_manifests each folder is a delivery of its own, "
        "as the edge writes them: runs start at once and leave open folders to later runs",
    )
    quiet_seconds: float = Field(
        300, ge=0, le=_MOST_HOURS * 3600, description="quiet_period: complete when no object is newer than this"
    )
    marker: str = Field("_SUCCESS", min_length=1, description="marker: the object's name below the prefix")
    manifest: str = Field(
        "delivery.json",
        min_length=1,
        description='manifest: a JSON object below the prefix, {"objects": 1200, "bytes": 5}; folder_manifests: its '
        "name in each folder",
    )
    manifest_mib: float = Field(64, gt=0, le=1024, description="manifest: largest one, which is read as a whole")
    poll_seconds: float = Field(30, gt=0, description="time between two checks of the delivery")
    timeout_minutes: float = Field(720, gt=0, description="the run fails if the delivery is not complete by then")
    late_after_minutes: float | None = Field(
        None,
        gt=0,
        description="a late notification is sent if the delivery is not complete by then; null for never",
    )

    @model_validator(mode="after")
    def _require_late_before_timeout(self) -> Receive:
        if self.late_after_minutes is not None and self.late_after_minutes >= self.timeout_minutes:
            raise ValueError(
                f"late_after_minutes {self.late_after_minutes:g} is not less than timeout_minutes "
                f"{self.timeout_minutes:g}, when the run fails: make it shorter"
            )
        return self


_MOVED = {  # from staging to buckets, by the field's old name
    "kms_key_id": "kms_key_id below the name of the staging bucket",
    "bucket_key": "bucket_key below the name of the staging bucket",
    "owner_account_id": "expected_bucket_owner below the name of the staging bucket",
    "source_owner_account_id": "expected_bucket_owner below the name of the archive's bucket",
}


class Staging(Settings):
    """How each batch gets a prefix of its own."""

    uri: Prefix = Field(description="s3://bucket/prefix/ for the batches' copies")
    mode: Literal["copy", "in_place"] = Field(
        "copy",
        description="copy: copy every batch; in_place: import without a copy if a prefix holds exactly one "
        "batch's files, else copy",
    )
    copies_in_flight: int = Field(64, ge=1, le=256, description="server-side copies at the same time")
    pool: str = Field(
        "airlock_staging",
        description="Airflow pool of the tasks that copy batches; give it fewer slots than the workers have, otherwise "
        "all batches are copied before the first one is imported",
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_fields_that_moved(cls, given: Any) -> Any:
        """Name the new place of a key and an owner: a file without them would pass, and encrypt with another key."""
        moved = [name for name in _MOVED if isinstance(given, dict) and name in given]
        if moved:
            places = "; ".join(f"staging.{name}: write {_MOVED[name]}" for name in moved)
            raise ValueError(f"keys and owners are in the section buckets now. {places}")
        return given


_CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


class ImportWindow(Settings):
    """The hours in which new import jobs are started; outside them, running jobs continue and new ones wait."""

    start: str = Field(pattern=_CLOCK, description='opening time in quotes, for example "20:00"')
    end: str = Field(
        pattern=_CLOCK,
        description='closing time in quotes, for example "06:00"; a time before start means the next day',
    )
    timezone: Annotated[str, AfterValidator(check_timezone)] = Field(
        "UTC", description="time zone of start and end, an IANA name"
    )

    @model_validator(mode="after")
    def _refuse_a_whole_day(self) -> ImportWindow:
        if self.start == self.end:
            raise ValueError(f"start and end are both {self.start}: remove import_window to start jobs at any time")
        return self


class Schedule(Settings):
    """The schedule of the pipeline's runs."""

    cron: Annotated[str, AfterValidator(check_cron)] | None = Field(
        "0 2 * * *",
        pattern=r"^(@[a-z]+|\S+( +\S+){4,5})$",
        description="nightly by default; null: only manual runs, backfills and arrivals",
    )
    timezone: Annotated[str, AfterValidator(check_timezone)] = Field(
        "UTC", description="time zone of cron and start_date, an IANA name"
    )
    start_date: date = Field(
        date(2026, 1, 1), description="start of the first interval; backfills cannot start earlier"
    )
    catchup: bool = Field(False, description="run every interval since start_date when the DAG is switched on")
    max_active_runs: int = Field(1, ge=1, description="runs of this pipeline at the same time")
    import_window: ImportWindow | None = Field(
        None, description="hours in which new import jobs are started, see below; without it at any time"
    )


class Pipeline(Settings):
    """The fields that pipelines of every kind have."""

    contract_schema: ClassVar[str] = "airlock.clinical/1"  # of the contracts that are routed
    report_lists: ClassVar[tuple[str, ...]] = ("dispositions.csv", "operation-outcomes.ndjson")  # beside report.json
    has_studies: ClassVar[bool] = False  # whether a redrive can choose one

    version: Literal["airlock.pipeline/1"] = Field(alias="schema")
    name: str = Field(pattern=rf"^{NAME}$", description="also the DAG's id")
    kind: str = Field(description="the kind of data that the pipeline imports")
    description: str = Field("", description="shown in the UI")
    tags: tuple[str, ...] = Field((), description="tags of the DAG in the UI")
    owner: str = Field(
        "airlock",
        min_length=1,
        description="team that answers for the pipeline; the UI shows it as the owner of the DAG",
    )
    owner_link: str | None = Field(
        None,
        pattern=r"^(https?://|mailto:)\S+$",
        description="where the UI leads from the owner's name: an https:// or mailto: address",
    )
    source: Source
    receive: Receive = Receive()
    arrivals: Arrivals | None = Field(None, description="the queue whose messages wake runs, see below")
    staging: Staging
    routes: tuple[Route, ...] = Field((), description="destinations of contracts, see below")
    routing: Routing = Field("all", description="send a contract to every route that matches, or only to the first")
    default_route: str | None = Field(
        None,
        description="route for contracts that no other route takes; without it they are recorded as unrouted",
    )
    settle_minutes: float = Field(
        10,
        ge=0,
        le=MOST_SETTLE_MINUTES,
        description="time after a release before it is sent; a later revision of the same study or patient takes its "
        "place in this time. 0 sends at once, for alarms",
    )
    workspace: Prefix = Field(description="s3://bucket/prefix/ for the runs' datasets and reports")
    buckets: dict[str, BucketSettings] = Field(
        {}, description="the key and the owner of each bucket, by its name; others stands for the rest, see below"
    )
    schedule: Schedule = Schedule()
    sweep: Sweep = Field(Sweep(), description="comparison of the whole source with the ledger, see below")
    retries: int = Field(
        3, ge=2, description="retries of every task; at least 2, since a race in Airflow's scheduler can cost one"
    )
    retry_delay_seconds: float = Field(60, ge=0, description="wait before a task's next try")
    review: Review | None = Field(None, description="who answers reviews")

    @model_validator(mode="after")
    def _refuse_the_name_of_another_dag(self) -> Pipeline:
        if self.name.endswith((REVIEW_SUFFIX, SWEEP_SUFFIX)):
            raise ValueError(f"the name {self.name!r} is that of a DAG beside another pipeline's: end it differently")
        return self

    @model_validator(mode="after")
    def _require_prefixes_outside_the_source(self) -> Pipeline:
        for field, uri in self.own_prefixes().items():
            # Runs and batches are in a folder with the pipeline's name.
            if f"{uri}{self.name}/".startswith(self.source.uri):
                raise ValueError(
                    f"{field} {uri!r} is inside the source {self.source.uri!r}, so its files would be imported: move it"
                )
        return self

    @model_validator(mode="after")
    def _require_used_buckets(self) -> Pipeline:
        check_buckets(self.buckets, self.bucket_settings())
        return self

    @model_validator(mode="after")
    def _require_consistent_routes(self) -> Pipeline:
        check_routes(self.routes, self.routing, self.default_route, self.contract_schema)
        return self

    @model_validator(mode="after")
    def _refuse_manifest_with_inventory(self) -> Pipeline:
        if self.source.listing == "inventory" and self.receive.mode in {"manifest", "folder_manifests"}:
            raise ValueError(
                f"receive.mode: {self.receive.mode} looks at the objects in S3, but source.listing: inventory does not "
                "list them: use receive.mode: marker"
            )
        return self

    @model_validator(mode="after")
    def _refuse_arrivals_with_inventory(self) -> Pipeline:
        if self.arrivals is not None and self.source.listing == "inventory":
            raise ValueError(
                "arrivals wakes a run at once, but an inventory lists new objects a day later: "
                "set source.listing to s3, or remove arrivals"
            )
        return self

    def __str__(self) -> str:
        """Return the name, because Airflow writes a mapped task's arguments as text into the serialized DAG."""
        return self.name

    @property
    def datastore_id(self) -> str:
        """The id of the data store that the pipeline releases from."""
        raise NotImplementedError(f"kind {self.kind!r} has no data store")

    @property
    def datastore_ids(self) -> set[str]:
        """The ids of all data stores that the pipeline imports into."""
        return {self.datastore_id}

    @property
    def wave_limits(self) -> tuple[int, int] | None:
        """The most objects and bytes that one run takes of a delivery; None if it takes all of it."""
        return None

    @property
    def asks_people(self) -> bool:
        """Whether people are asked about what its gate holds."""
        return False

    @property
    def has_asset_route(self) -> bool:
        """Whether a route sends to an Airflow asset."""
        return any(route.asset is not None for route in self.routes)

    @property
    def retry_delay(self) -> timedelta:
        """The delay before a task's next try."""
        return timedelta(seconds=self.retry_delay_seconds)

    def own_prefixes(self) -> dict[str, str]:
        """Return the prefixes that the pipeline writes to, by the name of their field."""
        ours = {"workspace": self.workspace, "staging.uri": self.staging.uri}
        return ours | {f"routes.{route.name}": route.uri for route in self.routes if route.uri is not None}

    def addresses(self) -> dict[str, str]:
        """Return the addresses on S3 that the pipeline reads or writes, by the name of their field."""
        read = {"source.uri": self.source.uri}
        if self.source.inventory_uri is not None:
            read["source.inventory_uri"] = self.source.inventory_uri
        return read | self.own_prefixes()

    def bucket_settings(self) -> dict[str, BucketSettings]:
        """Return the settings of each bucket that the pipeline uses, by its name."""
        names = {S3Uri.parse(uri).bucket for uri in self.addresses().values()}
        return {name: select_settings(self.buckets, name) for name in sorted(names)}

    def find_settings(self, uri: str) -> BucketSettings:
        """Return the settings of the bucket of an address."""
        return select_settings(self.buckets, S3Uri.parse(uri).bucket)

    def choose_output_key(self, uri: str, key: str | None) -> str:
        """Return the KMS key of what HealthLake's jobs write below an address: that of its bucket, or *key*.

        Raises
        ------
        ValueError
            If neither is named, or the two differ.
        """
        bucket, named = S3Uri.parse(uri).bucket, self.find_settings(uri).kms_key_id
        if key is not None and named is not None and key != named:
            raise ValueError(
                f"healthlake.kms_key_id is {key!r}, but the kms_key_id of bucket {bucket!r} is {named!r}: remove "
                f"healthlake.kms_key_id"
            )
        found = named or key
        if found is None:
            raise ValueError(
                f"healthlake.kms_key_id is missing, and buckets names no kms_key_id for {bucket!r}: HealthLake writes "
                f"no output without a key, so write one of the two"
            )
        return found

    def connections(self) -> set[str]:
        """Return the Airflow connections that the pipeline names."""
        named = {self.source.aws_conn_id}.union(*(route.destination.connections() for route in self.routes))
        return named if self.arrivals is None else named | {self.arrivals.aws_conn_id}

    def check_generations(self, field: str, max_generations: int) -> None:
        """Refuse more generations of a job than the tries of its task can start.

        Raises
        ------
        ValueError
            With the number of retries that is needed.
        """
        if max_generations > self.retries + 1:
            raise ValueError(
                f"{field} is {max_generations}, but {self.retries} retries allow only {self.retries + 1} generations: "
                f"set retries to {max_generations - 1} or more"
            )
