"""The source: that something is below it, under the very name that the pipeline file has."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from airlock.stages.doctor.buckets import exists_id
from airlock.stages.doctor.findings import Check, failed, passed, warned
from airlock.stages.doctor.uses import Purpose, group_buckets, list_buckets
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.world import World


def list_checks(world: World) -> Iterator[Check]:
    """Yield the check of what is below the source."""
    (bucket,) = (one for one in group_buckets(list_buckets(world.pipeline)) if one.has(Purpose.SOURCE))
    yield Check("source.objects", "source.uri", partial(_check_objects, world), (exists_id(bucket),), "s3:ListBucket")


def _check_objects(world: World) -> Finding:
    source = S3Uri.parse(world.pipeline.source.uri)
    client = world.connect(world.pipeline.source.aws_conn_id).client("s3")
    # A console makes an empty object for the folder itself.
    listed = client.list_objects_v2(Bucket=source.bucket, Prefix=source.key, MaxKeys=2).get("Contents", [])
    if any(one["Key"] != source.key for one in listed):
        return passed("Objects are below it.")
    if _has_other_case(client, source):
        return failed(
            "No object is below source.uri, but a folder of the bucket differs from it in upper and lower case only.",
            "Write source.uri as the keys are written: S3 distinguishes upper and lower case.",
        )
    return warned(
        "No object is below source.uri.",
        "If a delivery has come, compare source.uri with the keys of its objects, which begin without a slash.",
    )


def _has_other_case(client: Any, source: S3Uri) -> bool:
    """Return whether the bucket has a folder that differs from the source in upper and lower case only."""
    above = ""
    for name in source.key.rstrip("/").split("/"):
        answer = client.list_objects_v2(Bucket=source.bucket, Prefix=above, Delimiter="/")
        folders = {one["Prefix"] for one in answer.get("CommonPrefixes", [])}
        wanted = f"{above}{name}/"
        if wanted not in folders:
            return wanted.casefold() in {one.casefold() for one in folders}
        above = wanted
    return False
