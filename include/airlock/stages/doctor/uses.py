"""What a pipeline uses: buckets, data stores, roles, keys and connections, by the fields of its file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline, S3Destination
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.pipelines import HealthImaging, HealthLake, Pipeline

Service = Literal["medical-imaging", "healthlake"]

PRINCIPALS: Final[dict[Service, str]] = {
    "medical-imaging": "medical-imaging.amazonaws.com",
    "healthlake": "healthlake.amazonaws.com",
}
_INVENTORY_FIELD = "source.inventory_uri"


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
    return [*_list_read(pipeline), *_list_staged(pipeline), *_list_outputs(pipeline), *_list_kept(pipeline)]


def _list_read(pipeline: Pipeline) -> Iterator[BucketUse]:
    source = pipeline.source
    needed = timedelta(days=source.owed_days)
    yield BucketUse(
        Purpose.SOURCE,
        "source.uri",
        S3Uri.parse(source.uri),
        source.aws_conn_id,
        owner=pipeline.staging.source_owner_account_id,
        needed=needed,
    )
    if source.inventory_uri is not None:
        hours = timedelta(hours=source.inventory_max_age_hours)
        uri = S3Uri.parse(source.inventory_uri)
        yield BucketUse(Purpose.READ, _INVENTORY_FIELD, uri, source.aws_conn_id, needed=hours)


def _list_staged(pipeline: Pipeline) -> Iterator[BucketUse]:
    staging, stores = pipeline.staging, list_stores(pipeline)
    yield BucketUse(
        Purpose.STAGING,
        "staging.uri",
        S3Uri.parse(staging.uri),
        pipeline.source.aws_conn_id,
        stores[0].service,
        staging.kms_key_id,
        staging.owner_account_id,
        _longest_job(pipeline),
    )


def _list_outputs(pipeline: Pipeline) -> Iterator[BucketUse]:
    connection, needed = pipeline.source.aws_conn_id, _longest_job(pipeline)
    for store in list_stores(pipeline):
        uri, key = S3Uri.parse(store.settings.output_uri), getattr(store.settings, "kms_key_id", None)
        field = f"{store.section}.output_uri"
        yield BucketUse(Purpose.OUTPUT, field, uri, connection, store.service, key, needed=needed)
    if isinstance(pipeline, CcdaPipeline):
        uri, key = S3Uri.parse(pipeline.transformation.output_uri), pipeline.healthlake.kms_key_id
        field = "transformation.output_uri"
        yield BucketUse(Purpose.OUTPUT, field, uri, connection, "healthlake", key, needed=needed)


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


def list_roles(pipeline: Pipeline) -> list[RoleUse]:
    """Return the roles of a pipeline's jobs."""
    converts = isinstance(pipeline, CcdaPipeline)
    return [
        RoleUse(
            store.settings.data_access_role_arn,
            store.service,
            f"{store.section}.data_access_role_arn",
            store.connection,
            (store,),
            converts,
        )
        for store in list_stores(pipeline)
    ]


@dataclass(frozen=True)
class KeyUse:
    """A KMS key that a pipeline file names."""

    key_id: str
    field: str
    connection: str
    region: str | None  # of the section that names it; None for the connection's


def list_keys(pipeline: Pipeline) -> list[KeyUse]:
    """Return the KMS keys that a pipeline file names."""
    keys: list[KeyUse] = []
    staging = pipeline.staging
    if staging.kms_key_id is not None:
        keys.append(KeyUse(staging.kms_key_id, "staging.kms_key_id", pipeline.source.aws_conn_id, None))
    for store in list_stores(pipeline):
        key = getattr(store.settings, "kms_key_id", None)
        if key is not None:
            keys.append(KeyUse(key, f"{store.section}.kms_key_id", store.connection, store.settings.region_name))
    return keys


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
