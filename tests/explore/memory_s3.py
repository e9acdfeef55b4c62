"""S3 in memory: the calls of boto3's client that the library makes, with the answers and errors of the real one.

`test_memory_s3.py` runs the tests of `airlock.storage.s3` against it, which run against moto too. Its objects have the
time that the caller's clock shows, or another one: a replica keeps the time of its source.
"""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, cast

from botocore.exceptions import ClientError

from airlock.storage.listing import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

PAGE_SIZE = 1000
_LISTING_EVENT = "before-parse.*.ListObjectsV2"
_MESSAGES = {
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchKey": (404, "The specified key does not exist."),
    "404": (404, "Not Found"),
    "PreconditionFailed": (412, "At least one of the preconditions you specified did not hold."),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "AccessDenied": (403, "Access Denied"),
    "NoSuchUpload": (404, "The specified upload does not exist."),
}


@dataclass(frozen=True)
class StoredObject:
    """One object; a new content is a new one."""

    body: bytes
    etag: str  # without quotes
    last_modified: datetime
    content_type: str = "binary/octet-stream"


@dataclass
class _Upload:
    bucket: str
    key: str
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Bucket:
    """The objects of a bucket; its keys are in the order of S3's listings, which is that of their UTF-8."""

    objects: dict[str, StoredObject] = field(default_factory=dict)
    order: list[bytes] = field(default_factory=list)
    encrypted: bool = False
    no_deletes: bool = False

    def put(self, key: str, stored: StoredObject) -> None:
        """Store an object in the place of any other under its key."""
        if key not in self.objects:
            insort(self.order, key.encode())
        self.objects[key] = stored

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        if self.objects.pop(key, None) is not None:
            del self.order[bisect_left(self.order, key.encode())]

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield the keys with a prefix, in order."""
        start = prefix.encode()
        first = max(bisect_left(self.order, start), bisect_right(self.order, after.encode()) if after else 0)
        for name in self.order[first:]:
            if not name.startswith(start):
                return
            yield name.decode()


class _Body(io.BytesIO):
    """The body of an answer."""

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        while piece := self.read(size):
            yield piece


class _Events:
    """The client's events, of which only the one of `airlock.storage.listing` is known."""

    def __init__(self) -> None:
        self.pages = False

    def register(self, event: str, *_: Any, **__: Any) -> None:
        """Note that a listing is to be answered as columns."""
        self.pages |= event == _LISTING_EVENT

    def unregister(self, *_: Any) -> None:
        """Do nothing: no other event is raised here."""


class MemoryS3:
    """The client, and the server behind it.

    Parameters
    ----------
    now
        The clock.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.buckets: dict[str, Bucket] = {}
        config = SimpleNamespace(proxies_config=None, client_cert=None)
        self.meta = SimpleNamespace(
            events=_Events(), region_name="us-east-1", endpoint_url="http://memory", config=config
        )
        self._now = now
        self._uploads: dict[str, _Upload] = {}
        self._number = 0

    def create_bucket(self, *, Bucket: str, **_: Any) -> dict[str, Any]:  # boto3's names, as below
        """Answer CreateBucket."""
        self.buckets[Bucket] = _new_bucket()
        return {}

    def head_bucket(self, *, Bucket: str, **_: Any) -> dict[str, Any]:
        """Answer HeadBucket."""
        self._bucket(Bucket, "HeadBucket", "404")
        return {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": self.meta.region_name}}}

    def list_objects_v2(
        self,
        *,
        Bucket: str,
        Prefix: str = "",
        Delimiter: str = "",
        ContinuationToken: str = "",
        StartAfter: str = "",
        **_: Any,
    ) -> dict[str, Any]:
        """Answer ListObjectsV2, up to a thousand objects at a time; folders only on one page."""
        bucket = self._bucket(Bucket, "ListObjectsV2")
        keys, folders = [], set()
        for key in bucket.keys(Prefix, ContinuationToken or StartAfter):
            head, cut, _rest = key[len(Prefix) :].partition(Delimiter) if Delimiter else ("", "", "")
            if cut:
                folders.add(f"{Prefix}{head}{cut}")
                continue
            keys.append(key)
            if len(keys) > PAGE_SIZE:
                break
        more = {"NextContinuationToken": keys[PAGE_SIZE - 1]} if len(keys) > PAGE_SIZE else {}
        keys = keys[:PAGE_SIZE]
        found = [bucket.objects[key] for key in keys]
        answer = {"IsTruncated": bool(more), "CommonPrefixes": [{"Prefix": name} for name in sorted(folders)]} | more
        if self.meta.events.pages:
            times = [stored.last_modified.isoformat(timespec="milliseconds") for stored in found]
            answer["Page"] = Page(
                keys, [f'"{stored.etag}"' for stored in found], [str(len(stored.body)) for stored in found], times
            )
        answer["Contents"] = [
            {
                "Key": key,
                "Size": len(stored.body),
                "ETag": f'"{stored.etag}"',
                "LastModified": stored.last_modified,
            }
            for key, stored in zip(keys, found, strict=True)
        ]
        return answer

    def get_paginator(self, operation: str) -> Any:
        """Return the pages of ListObjectsV2, which is the only operation of several pages here."""
        if operation != "list_objects_v2":
            raise NotImplementedError(operation)
        return SimpleNamespace(paginate=self._paginate)

    def _paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] | None = {}
        while token is not None:
            page = self.list_objects_v2(**request, **token)
            yield page
            token = {"ContinuationToken": page["NextContinuationToken"]} if page["IsTruncated"] else None

    def get_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Range: str | None = None,
        IfMatch: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Answer GetObject, all of it or a range."""
        stored = self._object(Bucket, Key, "GetObject")
        if IfMatch is not None and IfMatch.strip('"') != stored.etag:
            raise _refuse("PreconditionFailed", "GetObject")
        body, more = stored.body, {}
        if Range is not None:
            first, _, last = Range.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(body)), len(body) - 1)
            if start > end:
                raise _refuse("InvalidRange", "GetObject")
            more = {"ContentRange": f"bytes {start}-{end}/{len(body)}"}
            body = body[start : end + 1]
        return {**_describe(stored), **more, "ContentLength": len(body), "Body": _Body(body)}

    def head_object(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        """Answer HeadObject."""
        stored = self._object(Bucket, Key, "HeadObject", "404")
        return {**_describe(stored), "ContentLength": len(stored.body)}

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes | IO[bytes] = b"",
        ContentType: str = "binary/octet-stream",
        **_: Any,
    ) -> dict[str, Any]:
        """Answer PutObject."""
        body = Body if isinstance(Body, bytes | bytearray) else cast("IO[bytes]", Body).read()
        stored = self.store(Bucket, Key, bytes(body), ContentType, operation="PutObject")
        return {"ETag": f'"{stored.etag}"'}

    def upload_fileobj(
        self,
        Fileobj: IO[bytes],
        Bucket: str,
        Key: str,
        ExtraArgs: dict[str, Any] | None = None,
        Config: Any = None,
    ) -> None:
        """Write an open file, as boto3's transfer does."""
        self.put_object(Bucket=Bucket, Key=Key, Body=Fileobj.read(), **(ExtraArgs or {}))

    def delete_object(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        """Answer DeleteObject."""
        self._bucket(Bucket, "DeleteObject").delete(Key)
        return {}

    def delete_objects(self, *, Bucket: str, Delete: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Answer DeleteObjects, whose refusals are in a successful answer."""
        bucket = self._bucket(Bucket, "DeleteObjects")
        names = [item["Key"] for item in Delete["Objects"]]
        if bucket.no_deletes:
            return {"Errors": [{"Key": name, "Code": "AccessDenied"} for name in names]}
        for name in names:
            bucket.delete(name)
        return {}

    def copy_object(
        self,
        *,
        Bucket: str,
        Key: str,
        CopySource: dict[str, str],
        CopySourceIfMatch: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Answer CopyObject."""
        source = self._source(CopySource, CopySourceIfMatch, "CopyObject")
        stored = self.store(Bucket, Key, source.body, source.content_type, operation="CopyObject")
        return {"CopyObjectResult": {"ETag": f'"{stored.etag}"'}}

    def create_multipart_upload(self, *, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        """Answer CreateMultipartUpload."""
        self._bucket(Bucket, "CreateMultipartUpload")
        self._number += 1
        name = f"upload-{self._number}"
        self._uploads[name] = _Upload(Bucket, Key)
        return {"UploadId": name}

    def upload_part_copy(
        self,
        *,
        UploadId: str,
        PartNumber: int,
        CopySource: dict[str, str],
        CopySourceRange: str,
        CopySourceIfMatch: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Answer UploadPartCopy."""
        source = self._source(CopySource, CopySourceIfMatch, "UploadPartCopy")
        first, _, last = CopySourceRange.removeprefix("bytes=").partition("-")
        part = self._uploads[UploadId].parts[PartNumber] = source.body[int(first) : int(last) + 1]
        return {"CopyPartResult": {"ETag": f'"{_md5(part)}"'}}

    def complete_multipart_upload(self, *, UploadId: str, **_: Any) -> dict[str, Any]:
        """Answer CompleteMultipartUpload."""
        upload = self._uploads.pop(UploadId)
        parts = [upload.parts[number] for number in sorted(upload.parts)]
        etag = f"{_md5(b''.join(bytes.fromhex(_md5(part)) for part in parts))}-{len(parts)}"
        self.store(upload.bucket, upload.key, b"".join(parts), etag=etag, operation="CompleteMultipartUpload")
        return {"ETag": f'"{etag}"'}

    def abort_multipart_upload(self, *, UploadId: str, **_: Any) -> dict[str, Any]:
        """Answer AbortMultipartUpload."""
        self._uploads.pop(UploadId, None)
        return {}

    def list_multipart_uploads(self, *, Bucket: str, **_: Any) -> dict[str, Any]:
        """Answer ListMultipartUploads."""
        found = [{"Key": upload.key} for upload in self._uploads.values() if upload.bucket == Bucket]
        return {"Uploads": found} if found else {}

    def put_bucket_encryption(self, *, Bucket: str, **_: Any) -> dict[str, Any]:
        """Encrypt what comes: etags are no MD5 then."""
        self.buckets[Bucket].encrypted = True
        return {}

    def put_bucket_policy(self, *, Bucket: str, Policy: str) -> dict[str, Any]:
        """Apply a policy, of which only a ban on deletes is known."""
        statements = json.loads(Policy)["Statement"]
        self.buckets[Bucket].no_deletes = any(one["Action"] == "s3:DeleteObject" for one in statements)
        return {}

    def store(
        self,
        bucket: str,
        key: str,
        body: bytes,
        content_type: str = "binary/octet-stream",
        *,
        etag: str | None = None,
        last_modified: datetime | None = None,
        operation: str = "PutObject",
    ) -> StoredObject:
        """Write an object; with *last_modified* as replication does, which keeps the time of the source."""
        target = self._bucket(bucket, operation)
        made = etag or (_md5(b"kms " + key.encode() + body) if target.encrypted else _md5(body))
        stored = StoredObject(body, made, last_modified or self._now(), content_type)
        target.put(key, stored)
        return stored

    def _bucket(self, name: str, operation: str, code: str = "NoSuchBucket") -> Bucket:
        if name not in self.buckets:
            raise _refuse(code, operation)
        return self.buckets[name]

    def _object(self, bucket: str, key: str, operation: str, code: str = "NoSuchKey") -> StoredObject:
        found = self._bucket(bucket, operation).objects.get(key)
        if found is None:
            raise _refuse(code, operation)
        return found

    def _source(self, source: dict[str, str], etag: str | None, operation: str) -> StoredObject:
        stored = self._object(source["Bucket"], source["Key"], operation)
        if etag is not None and etag.strip('"') != stored.etag:
            raise _refuse("PreconditionFailed", operation)
        return stored


def _new_bucket() -> Bucket:
    return Bucket()


def _describe(stored: StoredObject) -> dict[str, Any]:
    return {
        "ETag": f'"{stored.etag}"',
        "LastModified": stored.last_modified,
        "ContentType": stored.content_type,
    }


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def _refuse(code: str, operation: str) -> ClientError:
    status, message = _MESSAGES[code]
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    return ClientError(answer, operation)
