"""The encryption that a write names in its request, as the policy of a bucket sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from airlock.stages.doctor.uses import BucketUse

_ENCRYPTION: Final = "s3:x-amz-server-side-encryption"
_KEY: Final = "s3:x-amz-server-side-encryption-aws-kms-key-id"


def list_encryption_values(use: BucketUse) -> dict[str, str | None]:
    """Return the values of a policy's condition keys about encryption, for a write to a prefix.

    Parameters
    ----------
    use
        The prefix, with the KMS key that Airlock's requests, or the service's jobs, name when they write there.

    Returns
    -------
    dict
        The values; None says that the request does not have the key.
    """
    if use.key_id is None:
        return {_ENCRYPTION: None, _KEY: None}
    values: dict[str, str | None] = {_ENCRYPTION: "aws:kms"}
    if ":key/" in use.key_id:  # of an id or alias the policy sees the ARN, which is not known here
        values[_KEY] = use.key_id
    return values
