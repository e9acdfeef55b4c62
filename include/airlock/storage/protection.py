"""The protection of objects that are written: the key that encrypts them, and the accounts that must own the buckets.

The functions return parameters of boto3's S3 client. Without any setting they return none, so that S3 encrypts as the
bucket's own settings say, and writes to the bucket whoever owns it.
"""

from __future__ import annotations

from typing import Any, Protocol


class Protection(Protocol):
    """The settings of ``pipelines.parts.Staging`` that protect what is written."""

    @property
    def kms_key_id(self) -> str | None:
        """The KMS key that encrypts the objects; None for the bucket's own settings."""

    @property
    def bucket_key(self) -> bool:
        """Whether S3 asks KMS for keys of the bucket instead of keys of each object."""

    @property
    def owner_account_id(self) -> str | None:
        """The account that must own the bucket that is written to; None for any."""

    @property
    def source_owner_account_id(self) -> str | None:
        """The account that must own the bucket that is copied from; None for any."""


def begin_parameters(protection: Protection | None) -> dict[str, Any]:
    """Return the parameters of a request that begins an object: PutObject, CreateMultipartUpload."""
    if protection is None or protection.kms_key_id is None:
        return owner_parameters(protection)
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": protection.kms_key_id}
    return encryption | {"BucketKeyEnabled": protection.bucket_key} | owner_parameters(protection)


def upload_parameters(protection: Protection | None) -> dict[str, Any]:
    """Return those of boto3's uploads of files, which pass on no Bucket Key: the bucket's own setting decides."""
    parameters = begin_parameters(protection)
    parameters.pop("BucketKeyEnabled", None)
    return parameters


def owner_parameters(protection: Protection | None) -> dict[str, str]:
    """Return the parameters of any other request about an object that is written."""
    owner = protection.owner_account_id if protection else None
    return {"ExpectedBucketOwner": owner} if owner else {}


def source_parameters(protection: Protection | None) -> dict[str, str]:
    """Return the parameters of a request that copies from another object, besides those above."""
    owner = protection.source_owner_account_id if protection else None
    return {"ExpectedSourceBucketOwner": owner} if owner else {}
