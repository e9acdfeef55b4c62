"""What a pipeline uses: buckets, data stores, roles, keys and connections, by the fields of its file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, HealthLake, ImagingPipeline, S3Destination
from airlock.pipelines.buckets import find_entry
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import HealthImaging, Pipeline

Service = Literal["medical-imaging", "healthlake"]

PRINCIPALS: Final[dict[Service, str]] = {
    "medical-imaging": "medical-imaging.amazonaws.com",
    "healthlake": "healthlake.amazonaws.com",
}
_INVENTORY_FIELD = "source.inventory_uri"
_LAKE_KEY_FIELD = "healthlake.kms_key_id"
_CONVERSIONS_FIELD = "transformation.output_uri"


class Purpose(StrEnum):
    """What a bucket's prefix is for."""

    SOURCE = "source"
    READ = "read"  # an inventory, or the output of a conversion
    STAGING = "staging"
    OUTPUT = "output"
    WORKSPACE = "workspace"
    CONTRACTS = "contracts"


WRITTEN: Final = frozenset({Purpose.STAGING, Purpose.WORKSPACE, Purpose.CONTRACTS})  # by Airlock's workers


@dataclass(frozen=True)
class BucketUse:
    """A prefix that a pipeline reads or writes.

    Parameters
    ----------
    purpose
        What it is for.
    field
        The field of the pipeline file.
    uri
        Its address.
    connection
        The Airflow connection by which workers reach it.
    service
        The service whose jobs read or write it.
    key_id
        The KMS key that Airlock's requests, or the service's jobs, name when they write there.
    owner
        The account that must own the bucket; None for any.
    needed
        How long objects must stay; None for ever.
    """

    purpose: Purpose
    field: str
    uri: S3Uri
    connection: str
    service: Service | None = None
    key_id: str | None = None
    owner: str | None = None
    needed: timedelta | None = None


@dataclass(frozen=True)
class StoreUse:
    """A data store that a pipeline imports into."""

    service: Service
    section: str  # of the pipeline file
    settings: HealthImaging | HealthLake

    @property
    def connection(self) -> str:
        """The Airflow connection by which workers reach it."""
        return self.settings.aws_conn_id

    @property
    def job_time(self) -> timedelta:
        """The longest time from the start of a job to its end, as its task waits for it."""
        queued = getattr(self.settings, "queued_timeout_minutes", 0.0)  # only jobs of HealthLake queue
        return timedelta(minutes=self.settings.job_timeout_minutes + queued)


def list_stores(pipeline: Pipeline) -> list[StoreUse]:
    """Return the data stores of a pipeline."""
    stores: list[StoreUse] = []
    if isinstance(pipeline, ImagingPipeline):
        stores.append(StoreUse("medical-imaging", "healthimaging", pipeline.healthimaging))
    if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) and pipeline.healthlake is not None:
        stores.append(StoreUse("healthlake", "healthlake", pipeline.healthlake))
    return stores


def list_buckets(pipeline: Pipeline) -> list[BucketUse]:
    """Return the prefixes of a pipeline, in the order of its stages."""
    uses = *_list_read(pipeline), *_list_staged(pipeline), *_list_outputs(pipeline), *_list_kept(pipeline)
    return [_add_settings(pipeline, use) for use in uses]


def _add_settings(pipeline: Pipeline, use: BucketUse) -> BucketUse:
    """Return a use with what requests name: a job of HealthImaging names no key, one of HealthLake has one already."""
    settings = pipeline.find_settings(str(use.uri))
    written = use.purpose in WRITTEN and use.key_id is None
    key = settings.kms_key_id if written else use.key_id
    return replace(use, key_id=key, owner=settings.expected_bucket_owner)


def _list_read(pipeline: Pipeline) -> Iterator[BucketUse]:
    source = pipeline.source
    needed = timedelta(days=source.owed_days)
    yield BucketUse(Purpose.SOURCE, "source.uri", S3Uri.parse(source.uri), source.aws_conn_id, needed=needed)
    if source.inventory_uri is not None:
        hours = timedelta(hours=source.inventory_max_age_hours)
        uri = S3Uri.parse(source.inventory_uri)
        yield BucketUse(Purpose.READ, _INVENTORY_FIELD, uri, source.aws_conn_id, needed=hours)


def _list_staged(pipeline: Pipeline) -> Iterator[BucketUse]:
    uri, service = S3Uri.parse(pipeline.staging.uri), list_stores(pipeline)[0].service
    connection, needed = pipeline.source.aws_conn_id, _longest_job(pipeline)
    yield BucketUse(Purpose.STAGING, "staging.uri", uri, connection, service, needed=needed)


def _list_outputs(pipeline: Pipeline) -> Iterator[BucketUse]:
    connection, needed = pipeline.source.aws_conn_id, _longest_job(pipeline)
    for store in list_stores(pipeline):
        uri, key = S3Uri.parse(store.settings.output_uri), find_output_key(pipeline, store)
        field = f"{store.section}.output_uri"
        yield BucketUse(Purpose.OUTPUT, field, uri, connection, store.service, key, needed=needed)
    if isinstance(pipeline, CcdaPipeline):
        uri, key = S3Uri.parse(pipeline.transformation.output_uri), pipeline.conversion_key
        yield BucketUse(Purpose.OUTPUT, _CONVERSIONS_FIELD, uri, connection, "healthlake", key, needed=needed)


def find_output_key(pipeline: Pipeline, store: StoreUse) -> str | None:
    """Return the KMS key that the jobs of a data store name; None for HealthImaging, whose jobs name none."""
    if not isinstance(store.settings, HealthLake):
        return None
    return pipeline.choose_output_key(store.settings.output_uri, store.settings.kms_key_id)


def _list_kept(pipeline: Pipeline) -> Iterator[BucketUse]:
    connection = pipeline.source.aws_conn_id
    yield BucketUse(Purpose.WORKSPACE, "workspace", S3Uri.parse(pipeline.workspace), connection)
    for route in pipeline.routes:
        if isinstance(route.destination, S3Destination):
            field, uri = f"routes.{route.name}.uri", S3Uri.parse(route.destination.uri)
            yield BucketUse(Purpose.CONTRACTS, field, uri, route.destination.aws_conn_id)


def _longest_job(pipeline: Pipeline) -> timedelta:
    times = [store.job_time for store in list_stores(pipeline)]
    if isinstance(pipeline, CcdaPipeline):
        times.append(times[0] + timedelta(minutes=pipeline.transformation.job_timeout_minutes))
    return max(times)


@dataclass(frozen=True)
class Bucket:
    """A bucket, by one connection, and everything that the pipeline uses it for."""

    name: str
    connection: str
    uses: tuple[BucketUse, ...]

    @property
    def title(self) -> str:
        """The bucket's name and the fields that name it, for messages."""
        return f"{self.name} ({', '.join(use.field for use in self.uses)})"

    def has(self, *purposes: Purpose) -> bool:
        """Return whether the bucket is for one of these purposes."""
        return any(use.purpose in purposes for use in self.uses)


def group_buckets(uses: Iterable[BucketUse]) -> list[Bucket]:
    """Return the buckets of prefixes, each once for each connection."""

    def place(use: BucketUse) -> tuple[str, str]:
        return use.uri.bucket, use.connection

    ordered = sorted(uses, key=place)
    return [Bucket(name, connection, tuple(group)) for (name, connection), group in groupby(ordered, place)]


@dataclass(frozen=True)
class RoleUse:
    """A role that a service assumes for the pipeline's jobs."""

    arn: str
    service: Service
    field: str
    connection: str
    stores: tuple[StoreUse, ...]  # whose jobs have it; empty if the job has no data store
    converts: bool = False  # whether conversions have it

    @property
    def name(self) -> str:
        """Its name, without its path."""
        return self.arn.rpartition("/")[2]

    @property
    def account(self) -> str:
        """The account that it belongs to."""
        return self.arn.split(":")[4]

    def writes(self, use: BucketUse) -> bool:
        """Return whether its jobs write to a prefix."""
        has_job = self.converts if use.field == _CONVERSIONS_FIELD else bool(self.stores)
        return has_job and use.purpose is Purpose.OUTPUT and use.service == self.service


def list_roles(pipeline: Pipeline) -> list[RoleUse]:
    """Return the roles of a pipeline's jobs."""
    roles = [
        RoleUse(
            store.settings.data_access_role_arn,
            store.service,
            f"{store.section}.data_access_role_arn",
            store.connection,
            (store,),
            isinstance(pipeline, CcdaPipeline) and pipeline.conversion_role == store.settings.data_access_role_arn,
        )
        for store in list_stores(pipeline)
    ]
    if isinstance(pipeline, CcdaPipeline) and not any(role.converts for role in roles):
        field = "transformation.data_access_role_arn"
        roles.append(RoleUse(pipeline.conversion_role, "healthlake", field, roles[0].connection, (), converts=True))
    return roles


@dataclass(frozen=True)
class KeyUse:
    """A KMS key that a pipeline file names."""

    key_id: str
    field: str
    connection: str
    region: str | None  # of the section that names it; None for the connection's
    uses: tuple[BucketUse, ...]  # what is written with it


def list_keys(pipeline: Pipeline) -> list[KeyUse]:
    """Return the KMS keys that a pipeline file names and that something is written with."""
    found: dict[str, list[BucketUse]] = {}
    for use in list_buckets(pipeline):
        if use.key_id is not None:
            found.setdefault(_find_key_field(pipeline, use), []).append(use)
    return [_make_key_use(pipeline, field, tuple(uses)) for field, uses in found.items()]


def _find_key_field(pipeline: Pipeline, use: BucketUse) -> str:
    """Return the field of the pipeline file that names the key of a use."""
    if pipeline.find_settings(str(use.uri)).kms_key_id is None:
        return _LAKE_KEY_FIELD
    return f"buckets.{find_entry(pipeline.buckets, use.uri.bucket, 'kms_key_id')}.kms_key_id"


def _make_key_use(pipeline: Pipeline, field: str, uses: tuple[BucketUse, ...]) -> KeyUse:
    lake = list_stores(pipeline)[-1]
    by, region = (lake.connection, lake.settings.region_name) if field == _LAKE_KEY_FIELD else (None, None)
    return KeyUse(str(uses[0].key_id), field, by or uses[0].connection, region, uses)


def list_aws_connections(pipeline: Pipeline) -> list[str]:
    """Return the Airflow connections to AWS that a pipeline names."""
    others = set()
    for route in pipeline.routes:
        if route.webhook is not None or route.stow is not None:
            others |= route.destination.connections()
    return sorted(pipeline.connections() - others)


def list_other_connections(pipeline: Pipeline) -> list[str]:
    """Return the Airflow connections to receivers other than AWS, those of notifications included."""
    notified = pipeline.notify if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) else ()
    named = pipeline.connections() | {one.connection for one in notified}
    return sorted(named - set(list_aws_connections(pipeline)))
