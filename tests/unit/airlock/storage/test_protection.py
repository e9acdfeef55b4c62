"""The key and the owners that are set are in every request that writes."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import airlock.storage.s3
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    import pytest

    from airlock.storage.s3 import S3


def test_what_is_written_has_the_key_and_the_owners_that_are_set(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, set[str]] = {}

    def note(event_name: str, params: dict[str, Any], **_: Any) -> None:
        headers = {name.lower() for name in params["headers"]}
        asked[event_name.rpartition(".")[2]] = {name for name in headers if "owner" in name or "encryption" in name}

    owners = {"owner_account_id": "1" * 12, "source_owner_account_id": "2" * 12}
    protection = SimpleNamespace(kms_key_id="alias/batches", bucket_key=True, **owners)
    owner, source = "x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"
    key = "x-amz-server-side-encryption"
    begun = {owner, key, f"{key}-aws-kms-key-id", f"{key}-bucket-key-enabled"}
    s3.put(S3Uri("archive", "x"), b"content")
    (listed,) = s3.list_objects(S3Uri("archive", "x"))
    s3.client.meta.events.register("before-call.s3", note)
    try:
        s3.put(S3Uri("work", "a"), b"x", protection=protection)
        s3.copy({"Bucket": "archive", "Key": "x"}, listed.etag, listed.size, S3Uri("work", "b"), protection)
        assert asked == {"PutObject": begun, "CopyObject": begun | {source}}
        monkeypatch.setattr(airlock.storage.s3, "COPY_IN_ONE_CALL", 1)
        s3.copy({"Bucket": "archive", "Key": "x"}, listed.etag, listed.size, S3Uri("work", "c"), protection)
        assert asked.pop("CreateMultipartUpload") == begun
        monkeypatch.setattr(airlock.storage.s3, "_PUT_IN_ONE_CALL", 1)
        s3.put_file(S3Uri("work", "d"), io.BytesIO(b"x" * 10), "text/csv", protection)
    finally:
        s3.client.meta.events.unregister("before-call.s3", note)
    assert asked["CreateMultipartUpload"] == begun - {f"{key}-bucket-key-enabled"}  # which boto3 does not pass on
    assert (asked["UploadPartCopy"], asked["UploadPart"]) == ({owner, source}, {owner})
    assert asked["CompleteMultipartUpload"] == {owner}
