"""The AWS actions that a pipeline needs: those of its workers by connection, and those of each role of its jobs.

tests/unit/airlock/stages/doctor/test_needed_rights.py compares them with the policies in iam/.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airlock.pipelines import CcdaPipeline, ImagingPipeline
from airlock.stages.doctor.roles import store_arn
from airlock.stages.doctor.uses import PRINCIPALS, Purpose, list_buckets, list_roles, list_stores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airlock.pipelines import Pipeline
    from airlock.stages.doctor.uses import BucketUse, RoleUse, StoreUse
    from airlock.stages.doctor.world import World


@dataclass(frozen=True)
class Need:
    """Actions on one resource.

    Parameters
    ----------
    field
        The field of the pipeline file that names the resource.
    resource
        Its ARN.
    actions
        The actions.
    context
        Values of condition keys that the request has.
    """

    field: str
    resource: str
    actions: tuple[str, ...]
    context: Mapping[str, str] = dataclasses.field(default_factory=dict)


_OBJECT_ACTIONS: Final[dict[Purpose, tuple[str, ...]]] = {
    Purpose.SOURCE: ("s3:GetObject", "s3:GetObjectVersion"),
    Purpose.READ: ("s3:GetObject",),
    Purpose.STAGING: ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"),
    Purpose.OUTPUT: ("s3:GetObject",),
    Purpose.WORKSPACE: ("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"),
    Purpose.CONTRACTS: ("s3:PutObject",),
}
_IMAGING: Final = ("GetDatastore", "SearchImageSets", "StartDICOMImportJob", "GetDICOMImportJob", "ListDICOMImportJobs")
_IMAGE_SETS: Final = ("GetImageSet", "GetImageSetMetadata")
_LAKE: Final = (
    *("DescribeFHIRDatastore", "StartFHIRImportJob", "DescribeFHIRImportJob", "ListFHIRImportJobs"),
    *("ReadResource", "SearchWithPost", "ValidateResource"),
)
_COUNT: Final = "sqs:GetQueueAttributes"  # the console shows how many messages wait
_CONVERSION: Final = (
    *("StartDataTransformationJob", "DescribeDataTransformationJob", "ListDataTransformationJobs"),
    "GetDataTransformationProfile",
)


def _actions(service: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{service}:{name}" for name in names)


def list_worker_needs(world: World, connection: str) -> Iterator[Need]:
    """Yield what Airflow's workers and triggerer call by a connection."""
    pipeline = world.pipeline
    for use in list_buckets(pipeline):
        if use.connection == connection:
            yield from _list_bucket_needs(use, pipeline)
    for store in list_stores(pipeline):
        if store.connection == connection:
            yield from _list_store_needs(world, store)
    for role in list_roles(pipeline):
        if role.connection == connection:
            passed_to = {"iam:PassedToService": PRINCIPALS[role.service]}
            yield Need(role.field, role.arn, ("iam:PassRole",), passed_to)
    yield from _list_queue_needs(pipeline, connection)
    yield from _list_edge_needs(pipeline, connection)
    yield from _list_route_needs(world, connection)


def _list_bucket_needs(use: BucketUse, pipeline: Pipeline) -> Iterator[Need]:
    if use.purpose is not Purpose.CONTRACTS:
        listing = {"s3:prefix": use.uri.key}
        yield Need(use.field, f"arn:aws:s3:::{use.uri.bucket}", ("s3:ListBucket",), listing)
    objects = f"arn:aws:s3:::{use.uri.bucket}/{use.uri.key}"
    yield Need(use.field, f"{objects}x", _OBJECT_ACTIONS[use.purpose])
    if use.purpose is Purpose.WORKSPACE:
        for folder in ("contracts", "parked"):
            yield Need(use.field, f"{objects}{pipeline.name}/run/{folder}/x", ("s3:DeleteObject",))


def _list_store_needs(world: World, store: StoreUse) -> Iterator[Need]:
    arn, named = store_arn(world, store), f"{store.section}.datastore_id"
    if store.service == "healthlake":
        yield Need(named, arn, _actions("healthlake", _LAKE))
        if isinstance(world.pipeline, CcdaPipeline):
            base = arn.partition(":datastore/")[0]
            profile = f"{base}:dataTransformationProfile/{world.pipeline.transformation.profile_id}"
            yield Need("transformation.profile_id", profile, _actions("healthlake", _CONVERSION))
        return
    yield Need(named, arn, _actions("medical-imaging", _IMAGING))
    yield Need(named, f"{arn}/imageset/x", _actions("medical-imaging", _IMAGE_SETS))


def _list_queue_needs(pipeline: Pipeline, connection: str) -> Iterator[Need]:
    settings = pipeline.arrivals
    if settings is None or settings.aws_conn_id != connection:
        return
    actions = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", _COUNT)
    yield Need("arrivals.queue_url", queue_arn(settings.queue_url, settings.region_name), actions)
    dead = settings.dead_letter_queue_url
    if dead is not None:
        arn = queue_arn(dead, settings.region_name)
        yield Need("arrivals.dead_letter_queue_url", arn, ("sqs:SendMessage", _COUNT))


def _list_edge_needs(pipeline: Pipeline, connection: str) -> Iterator[Need]:
    edge = pipeline.edge if isinstance(pipeline, ImagingPipeline) else None
    if edge is not None and edge.aws_conn_id == connection:
        yield Need("edge.queue_url", queue_arn(edge.queue_url, edge.region_name), ("sqs:SendMessage",))


def queue_arn(url: str, region: str | None) -> str:
    """Return the ARN of a queue: its address has the account and the name, and AWS's also the Region."""
    host, account, name = url.rsplit("/", 2)
    parts = host.rpartition("/")[2].split(".")
    found = parts[1] if len(parts) > 2 and parts[0] == "sqs" else region or "us-east-1"
    return f"arn:aws:sqs:{found}:{account}:{name}"


def _list_route_needs(world: World, connection: str) -> Iterator[Need]:
    for route in world.pipeline.routes:
        name = f"routes.{route.name}"
        if route.sqs is not None and route.sqs.aws_conn_id == connection and route.sqs.queue_url.count("/") > 3:
            yield Need(name, queue_arn(route.sqs.queue_url, route.sqs.region_name), ("sqs:SendMessage",))
        if route.sns is not None and route.sns.aws_conn_id == connection:
            yield Need(name, route.sns.topic_arn, ("sns:Publish",))
        bus = route.eventbridge
        if bus is not None and bus.aws_conn_id == connection:
            context = {"events:source": bus.source, "events:detail-type": bus.detail_type}
            yield Need(name, _bus_arn(world, bus.bus, connection, bus.region_name), ("events:PutEvents",), context)


def _bus_arn(world: World, bus: str, connection: str, region: str | None) -> str:
    if bus.startswith("arn:"):
        return bus
    access = world.connect(connection)
    account = access.caller().account
    return f"arn:aws:events:{region or access.region}:{account}:event-bus/{bus}"


def list_role_needs(pipeline: Pipeline, role: RoleUse) -> Iterator[Need]:
    """Yield what a service does with the role of its jobs; the rights on keys are in `keys`."""
    for use in list_buckets(pipeline):
        is_in_place = use.purpose is Purpose.SOURCE and pipeline.staging.mode == "in_place"
        is_input = use.purpose is Purpose.STAGING or (is_in_place and role.service == "medical-imaging")
        is_output = role.writes(use)
        if not (is_input or is_output):
            continue
        looks: tuple[str, ...] = ("s3:ListBucket",)
        if role.service == "healthlake" and role.stores:
            looks += ("s3:GetBucketPublicAccessBlock", "s3:GetEncryptionConfiguration")
        yield Need(use.field, f"arn:aws:s3:::{use.uri.bucket}", looks)
        actions = ("s3:PutObject",) if is_output else ("s3:GetObject",)
        yield Need(use.field, f"arn:aws:s3:::{use.uri.bucket}/{use.uri.key}x", actions)
