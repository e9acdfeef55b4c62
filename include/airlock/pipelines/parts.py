"""What pipelines of every kind have: where arrivals come from, when they are complete, where contracts go."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from airlock.pipelines.arrivals import Arrivals
from airlock.pipelines.review import Review
from airlock.pipelines.routes import Route, Routing, check_routes
from airlock.pipelines.settings import NAME, Prefix, Settings

__all__ = ["NAME", "Pipeline", "Prefix", "Receive", "Route", "Schedule", "Settings", "Source", "Staging"]
_UPLOAD_HOURS = 24  # from the beginning of an upload in parts to its end, by default
_MOST_HOURS = 24 * 366
ROLE_ARN = r"^arn:aws(-[^:]+)?:iam::[0-9]{12}:role/.+$"


def check_timezone(text: str) -> str:
    """Return an IANA name, or refuse it."""
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{text!r} is no time zone: write one as Europe/Berlin or UTC") from None
    return text


class Source(Settings):
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
        _UPLOAD_HOURS,
        ge=0,
        le=_MOST_HOURS,
        description="with window: last_modified, how far before its interval a run also looks for unsettled arrivals: "
        "an upload in parts carries the time it began, and shows up only when it ends",
    )
    listing: Literal["s3", "inventory"] = Field(
        "s3",
        description="where the objects are looked up: in S3 itself, or in the newest S3 Inventory, for an archive too "
        "large to list every time; what came since the inventory began is seen by a later run",
    )
    inventory_uri: Prefix | None = Field(
        None,
        description="with listing: inventory, the folder of the inventory's configuration, "
        "s3://bucket/prefix/source-bucket/configuration/",
    )
    inventory_max_age_hours: float = Field(
        48, gt=0, le=_MOST_HOURS, description="with listing: inventory, an older one is waited for, and never taken"
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

    @model_validator(mode="after")
    def _inventory_can_stand_for_a_listing(self) -> Source:
        if (self.listing == "inventory") != (self.inventory_uri is not None):
            raise ValueError("listing: inventory and inventory_uri go together: give both or neither")
        if self.inventory_uri is not None and self.inventory_uri.startswith(self.uri):
            raise ValueError(
                f"inventory_uri {self.inventory_uri!r} lies below uri {self.uri!r}: its files would arrive"
            )
        late = self.listing == "inventory" and self.window == "last_modified"
        if late and self.lookback_hours < self.inventory_max_age_hours + _UPLOAD_HOURS:
            raise ValueError(
                f"an inventory may be {self.inventory_max_age_hours:g} hours old and an upload in parts begin "
                f"{_UPLOAD_HOURS} before it ends, but lookback_hours is {self.lookback_hours:g}: what came meanwhile "
                f"would never be taken in; make it {self.inventory_max_age_hours + _UPLOAD_HOURS:g} or more"
            )
        return self


class Receive(Settings):
    """When a delivery counts as complete."""

    mode: Literal["quiet_period", "marker", "manifest"] = Field(
        "quiet_period", description="what says that a delivery is complete"
    )
    quiet_seconds: float = Field(
        300, ge=0, le=_MOST_HOURS * 3600, description="quiet_period: no object newer than this"
    )
    marker: str = Field("_SUCCESS", min_length=1, description="marker: the object's name below the prefix")
    manifest: str = Field(
        "delivery.json",
        min_length=1,
        description='manifest: a JSON object below the prefix, {"objects": 1200, "bytes": 5}',
    )
    poll_seconds: float = Field(30, gt=0, description="between two looks at the delivery")
    timeout_minutes: float = Field(720, gt=0, description="a delivery that is not complete by then fails the run")
    late_after_minutes: float | None = Field(
        None,
        gt=0,
        description="a delivery that is not complete by then is told to who is notified of late; null for never",
    )

    @model_validator(mode="after")
    def _late_before_its_end(self) -> Receive:
        if self.late_after_minutes is not None and self.late_after_minutes >= self.timeout_minutes:
            raise ValueError(
                f"late_after_minutes {self.late_after_minutes:g} is not before timeout_minutes "
                f"{self.timeout_minutes:g}, when the run fails: make it shorter"
            )
        return self


class Staging(Settings):
    """How a batch gets a prefix of its own."""

    uri: Prefix = Field(description="s3://bucket/prefix/ for the batches' copies")
    mode: Literal["copy", "in_place"] = Field(
        "copy",
        description="in_place imports a prefix without copying where it holds exactly one batch's files, else copies",
    )
    copies_in_flight: int = Field(16, ge=1, le=256, description="server-side copies at a time")


_CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


class ImportWindow(Settings):
    """The hours in which new import jobs are started; outside them import waits, and running jobs go on."""

    start: str = Field(pattern=_CLOCK, description='when it opens, as "20:00", in quotes')
    end: str = Field(pattern=_CLOCK, description='when it closes, as "06:00"; before start means the next morning')
    timezone: Annotated[str, AfterValidator(check_timezone)] = Field("UTC", description="of both, an IANA name")

    @model_validator(mode="after")
    def _is_not_the_whole_day(self) -> ImportWindow:
        if self.start == self.end:
            raise ValueError(f"start and end are both {self.start}: leave import_window out to start jobs at any time")
        return self


class Schedule(Settings):
    """When runs start by themselves."""

    cron: str | None = Field(
        "0 2 * * *",
        pattern=r"^(@[a-z]+|\S+( +\S+){4,5})$",
        description="nightly by default; null runs only by hand, backfill or event",
    )
    timezone: Annotated[str, AfterValidator(check_timezone)] = Field(
        "UTC", description="of cron and start_date, an IANA name"
    )
    start_date: date = Field(date(2026, 1, 1), description="the first interval; backfills cannot begin before it")
    catchup: bool = Field(False, description="run every interval since start_date by itself, once switched on")
    max_active_runs: int = Field(1, ge=1, description="runs of this pipeline at a time")
    import_window: ImportWindow | None = Field(
        None, description="the hours in which new import jobs are started, see below; without it any"
    )


class Pipeline(Settings):
    """What every pipeline has, whatever travels through it."""

    version: Literal["airlock.pipeline/1"] = Field(alias="schema")
    name: str = Field(pattern=rf"^{NAME}$", description="also the DAG's id")
    kind: str = Field(description="what travels")
    description: str = Field("", description="shown in the UI")
    tags: tuple[str, ...] = Field((), description="of the DAG")
    source: Source
    receive: Receive = Receive()
    arrivals: Arrivals | None = Field(None, description="the queue that wakes runs, see below")
    staging: Staging
    routes: tuple[Route, ...] = Field((), description="where contracts go, see below")
    routing: Routing = Field("all", description="whether every route that matches gets a contract, or the first only")
    default_route: str | None = Field(
        None, description="name of the route that gets what no other takes; without it that is kept as unrouted"
    )
    workspace: Prefix = Field(description="s3://bucket/prefix/ for the runs' datasets and reports")
    schedule: Schedule = Schedule()
    retries: int = Field(3, ge=2, description="of every task; fewer than 2 lose to a race in Airflow's scheduler")
    retry_delay_seconds: float = Field(60, ge=0, description="before a task's next try")
    review: Review | None = Field(None, description="who answers reviews")

    @model_validator(mode="after")
    def _own_folders_are_apart(self) -> Pipeline:
        for field, uri in self.own_prefixes().items():
            # Runs and batches lie in folders of the pipeline's name.
            if f"{uri}{self.name}/".startswith(self.source.uri):
                raise ValueError(
                    f"{field} {uri!r} lies below the source {self.source.uri!r}: its files would arrive again"
                )
        return self

    @model_validator(mode="after")
    def _routes_agree(self) -> Pipeline:
        check_routes(self.routes, self.routing, self.default_route, self.contract_schema)
        return self

    @model_validator(mode="after")
    def _a_manifest_counts_what_is_there(self) -> Pipeline:
        if self.source.listing == "inventory" and self.receive.mode == "manifest":
            raise ValueError(
                "receive.mode: manifest counts what S3 lists now, which source.listing: inventory does not: use marker"
            )
        return self

    @model_validator(mode="after")
    def _arrivals_are_listed_at_once(self) -> Pipeline:
        if self.arrivals is not None and self.source.listing == "inventory":
            raise ValueError(
                "arrivals wakes a run when something is new, which an inventory shows a day later: set "
                "source.listing to s3, or leave arrivals out"
            )
        return self

    def __str__(self) -> str:
        """Return the name: Airflow writes what a mapped task is given into the serialized DAG."""
        return self.name

    @property
    def datastore_id(self) -> str:
        """The data store that holds what the pipeline releases."""
        raise NotImplementedError(f"a pipeline of kind {self.kind!r} names no data store")

    @property
    def tells_assets(self) -> bool:
        """Whether a route goes to an Airflow asset."""
        return any(route.asset is not None for route in self.routes)

    @property
    def contract_schema(self) -> str:
        """The schema of the contracts that are routed."""
        return "airlock.study/1" if self.kind == "imaging" else "airlock.clinical/1"

    @property
    def retry_delay(self) -> timedelta:
        """The delay before a task's next try."""
        return timedelta(seconds=self.retry_delay_seconds)

    def own_prefixes(self) -> dict[str, str]:
        """Return the prefixes that the pipeline writes below, by the field that names each."""
        ours = {"workspace": self.workspace, "staging.uri": self.staging.uri}
        return ours | {f"routes.{route.name}": route.uri for route in self.routes if route.uri is not None}

    def connections(self) -> set[str]:
        """Return the Airflow connections that the pipeline names."""
        named = {self.source.aws_conn_id}.union(*(route.destination.connections() for route in self.routes))
        return named if self.arrivals is None else named | {self.arrivals.aws_conn_id}

    def check_generations(self, field: str, max_generations: int) -> None:
        """Refuse more generations of a job than the tries of its task can start.

        Raises
        ------
        ValueError
            With the number of retries that would do.
        """
        if max_generations > self.retries + 1:
            raise ValueError(
                f"{field} is {max_generations}, but {self.retries} retries make {self.retries + 1} "
                f"generations at most: set retries to {max_generations - 1} or more"
            )
