"""The buckets of a pipeline: the key that encrypts what is written there, and the account that must own them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from airlock.pipelines.settings import Settings
from airlock.suggestions import suggest_name

if TYPE_CHECKING:
    from collections.abc import Mapping

OTHERS = "others"  # this bucket name is taken on AWS, so no pipeline can have a bucket of this name
_KEY_ID = r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32})"
_ALIAS = r"alias/[A-Za-z0-9/_-]+"
AccountId = Annotated[str, Field(pattern=r"^[0-9]{12}$")]
KmsKey = Annotated[  # AWS KMS Developer Guide, "Key identifiers (KeyId)"
    str,
    Field(
        max_length=400,
        pattern=rf"^({_KEY_ID}|{_ALIAS}|arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{{12}}:(key/{_KEY_ID}|{_ALIAS}))$",
    ),
]


class BucketSettings(Settings):
    """The key and the owner that requests to a bucket name; a field that is missing is taken from ``others``."""

    kms_key_id: KmsKey | None = Field(
        None,
        description="KMS key that encrypts what is written: an ARN, an id or an alias; null: the bucket's own settings "
        "apply. A bucket policy that compares keys sees ARNs",
    )
    bucket_key: bool = Field(True, description="with kms_key_id: use an S3 Bucket Key, so that S3 asks KMS less often")
    expected_bucket_owner: AccountId | None = Field(
        None, description="account that must own the bucket; S3 refuses every request to one of another account"
    )


def select_settings(buckets: Mapping[str, BucketSettings], name: str) -> BucketSettings:
    """Return the settings of a bucket: its own, and those of ``others`` for the fields that its entry does not have."""
    others = buckets.get(OTHERS, BucketSettings())
    own = buckets.get(name)
    if own is None:
        return others
    return others.model_copy(update={field: getattr(own, field) for field in own.model_fields_set})


def find_entry(buckets: Mapping[str, BucketSettings], name: str, field: str) -> str:
    """Return the entry of ``buckets`` that sets a field of a bucket: its own name, or ``others``."""
    return name if name in buckets and field in buckets[name].model_fields_set else OTHERS


def check_buckets(buckets: Mapping[str, BucketSettings], used: Mapping[str, BucketSettings]) -> None:
    """Refuse settings that have no effect.

    Parameters
    ----------
    buckets
        The section of the pipeline file.
    used
        The settings of each bucket that the pipeline uses.

    Raises
    ------
    ValueError
        If a bucket is named that the pipeline does not use, or a Bucket Key is switched off where there is no key.
    """
    for name in sorted(buckets.keys() - used.keys() - {OTHERS}):
        known = f"it uses {', '.join(used)}"
        raise ValueError(
            f"buckets names {name!r}, which no address of the pipeline has: {suggest_name(name, used, known)}"
        )
    written = {name: select_settings(buckets, name) for name in buckets}
    for name, settings in written.items():
        if settings.kms_key_id is None and not settings.bucket_key:
            raise ValueError(
                f"buckets.{name}.bucket_key has no effect without kms_key_id: give the key as well, or remove "
                f"bucket_key, so that the bucket's own settings apply"
            )
