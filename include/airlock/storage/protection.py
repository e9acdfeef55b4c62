"""The protection of buckets: the key that encrypts what is written, and the account that must own the bucket.

One hook of boto3's client adds the parameters to each request by the name of its bucket, so that no caller can forget
them. Without settings for a bucket it adds none: S3 then encrypts as the bucket's own settings say, whoever owns it.

S3 answers with 403 AccessDenied if a bucket belongs to another account than expected (Amazon S3 User Guide, "Verifying
bucket ownership with bucket owner condition"). The parts of an upload and its end name no key: they are encrypted as
its beginning has said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

OWNER_HEADER = "x-amz-expected-bucket-owner"
_EVENT = "provide-client-params.s3"  # before botocore checks and serializes the parameters
_BEGINNINGS = frozenset({"PutObject", "CopyObject", "CreateMultipartUpload"})


class BucketProtection(Protocol):
    """The settings of ``pipelines.buckets.BucketSettings``."""

    @property
    def kms_key_id(self) -> str | None:
        """The KMS key that encrypts objects; None for the bucket's own settings."""

    @property
    def bucket_key(self) -> bool:
        """Whether S3 asks KMS for keys of the bucket instead of keys of each object."""

    @property
    def expected_bucket_owner(self) -> str | None:
        """The account that must own the bucket; None for any."""


def protect_buckets(client: Any, buckets: Mapping[str, BucketProtection]) -> None:
    """Have a boto3 client of S3 name the key and the owner of these buckets in each request from now on.

    Parameters
    ----------
    client
        boto3's client of S3.
    buckets
        The settings of each bucket that has some, by its name.
    """
    if not buckets:
        return

    def add(params: dict[str, Any], model: Any, **_: Any) -> None:
        params.update(_list_parameters(buckets, params, model.name, model.input_shape.members))

    client.meta.events.register(_EVENT, add)


def _list_parameters(
    buckets: Mapping[str, BucketProtection], params: Mapping[str, Any], operation: str, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the settings add to the parameters of an operation."""
    added: dict[str, Any] = {}
    settings = buckets.get(params.get("Bucket", ""))
    if settings is not None and settings.expected_bucket_owner and "ExpectedBucketOwner" in known:
        added["ExpectedBucketOwner"] = settings.expected_bucket_owner
    source = buckets.get(params["CopySource"]["Bucket"]) if "CopySource" in params else None
    if source is not None and source.expected_bucket_owner:
        added["ExpectedSourceBucketOwner"] = source.expected_bucket_owner
    if settings is not None and settings.kms_key_id and operation in _BEGINNINGS:
        added |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": settings.kms_key_id}
        added["BucketKeyEnabled"] = settings.bucket_key
    return added


def describe_owners(buckets: Mapping[str, BucketProtection], named: tuple[str, ...]) -> str:
    """Return a sentence about the accounts that are expected to own some buckets; empty if none is."""
    owners = {name: buckets[name].expected_bucket_owner for name in named if name in buckets}
    parts = [f"bucket {name!r} to belong to account {owner}" for name, owner in owners.items() if owner]
    if not parts:
        return ""
    return (
        f" The pipeline file (buckets, expected_bucket_owner) expects {' and '.join(parts)}: S3 refuses every request "
        f"in this way if it belongs to another one."
    )
