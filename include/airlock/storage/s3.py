"""S3 as the stages use it: listings, whole objects, server-side copies.

boto3 lists and copies. obstore cannot: it refuses to list past a key with an empty or ``..`` segment, which archives
hold, and it has neither copies between buckets nor ``CopySourceIfMatch``. obstore reads the headers
(`airlock.dicom.fetch`), where speed counts. `airlock.storage.listing` parses the rows of boto3's listings, since that
takes boto3 nearly all of the time.
"""

from __future__ import annotations

from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from boto3.s3.transfer import TransferConfig

from airlock.storage.aws import AWS_ERRORS, error_code
from airlock.storage.listing import Page, frame_of, list_page, without_placeholders
from airlock.storage.protection import describe_owners, protect_buckets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    import boto3
    from botocore.client import BaseClient

    from airlock.storage.protection import BucketProtection
    from airlock.storage.s3uri import S3Uri

_REFUSALS = frozenset(
    {"NoSuchBucket", "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "PermanentRedirect", "403"}
)
BUSY = frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504"})
_BROKEN = frozenset({"ReadTimeoutError", "ResponseStreamingError", "IncompleteReadError"})  # bodies
_FIXES = {
    "ParamValidationError": "correct the name of the bucket in the pipeline file",
    "NoCredentialsError": "give the Airflow connection credentials, or the machine a role",
    "ProxyConnectionError": "correct the proxy that the connection or the environment names",
    "SSLError": "correct the endpoint, or name the certificate authority in AWS_CA_BUNDLE",
}
_PERMISSIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObjects": "s3:DeleteObject",
    "CopyObject": "s3:GetObject on the one and s3:PutObject on the other",
}
_NOT_FOUND = frozenset({"NoSuchKey", "404", "NotFound"})
COPY_IN_ONE_CALL = 5 * 1024**3  # bytes; CopyObject takes no more
_COPY_PART = 1024**3
_COPY_TRIES = 3  # of a copy whose answer does not say that it was made
_PUT_IN_ONE_CALL = 1024**3  # bytes; PutObject takes five times that
_PIECE = 1024**2  # bytes of a streamed object at a time
_RECONNECTS = 5  # consecutive ones without a byte between them


class S3Error(OSError):
    """S3 refused or failed a request, or did not answer.

    The text names the bucket, the operation and the code, but no key, prefix or address, which may name a patient. It
    is raised without the library's own error as its cause.

    Parameters
    ----------
    failure
        What cannot be done with which bucket.
    operation
        S3's name of the operation.
    code
        S3's error code, or the class of the library's error.
    owners
        A sentence about the accounts that were expected to own the buckets, for a refusal.
    """

    def __init__(self, failure: str, operation: str, code: str, owners: str = "") -> None:
        advice = _find_remedy(operation, code) + (f".{owners}" if owners else "")
        super().__init__(f"{failure} ({operation}: {code}): {advice}")
        self.code = code


class BucketError(S3Error):
    """A bucket does not exist, or the credentials may not use it."""


@dataclass(frozen=True)
class ListedObject:
    """One row of a bucket listing."""

    key: str
    etag: str  # without quotes
    size: int  # bytes
    last_modified: datetime


class S3:
    """One account's S3 through one boto3 session.

    Parameters
    ----------
    session
        The session with the credentials, which it may refresh.
    client
        The S3 client of that session, with the endpoint and region to use.
    buckets
        The key and the owner of each bucket that has settings, by its name; every request of the client has them.
    """

    def __init__(
        self, session: boto3.Session, client: BaseClient, buckets: Mapping[str, BucketProtection] | None = None
    ) -> None:
        self.session = session
        self.client: Any = client
        self._buckets = buckets or {}
        protect_buckets(client, self._buckets)

    def find_owner(self, bucket: str) -> str | None:
        """Return the account that must own a bucket; None for any."""
        settings = self._buckets.get(bucket)
        return settings.expected_bucket_owner if settings is not None else None

    def list_objects(self, uri: S3Uri, *, placeholders: bool = False) -> Iterator[ListedObject]:
        """Yield the objects below a prefix in key order.

        Parameters
        ----------
        uri
            The prefix.
        placeholders
            Whether folder placeholders (empty objects whose key ends in ``/``) are yielded too.

        Raises
        ------
        BucketError
            If S3 has no such bucket or refuses to list it.
        """
        for page in self.list_pages(uri):
            rows = frame_of([page])
            kept = rows if placeholders else without_placeholders(rows)
            for key, _, etag, size, last_modified in kept.iter_rows():
                yield ListedObject(key, etag, size, last_modified)

    def list_pages(self, uri: S3Uri, after: str = "") -> Iterator[Page]:
        """Yield the page of each answer of S3, in key order.

        Parameters
        ----------
        uri
            The prefix.
        after
            Only keys that follow this one; without it all below the prefix.

        Raises
        ------
        BucketError
            If S3 has no such bucket or refuses to list it.
        """
        where = {"Bucket": uri.bucket, "Prefix": uri.key} | ({"StartAfter": after} if after else {})
        token: str | None = ""
        while token is not None:
            with self._listing(uri.bucket):
                page, token = list_page(self.client, **where, **({"ContinuationToken": token} if token else {}))
            yield page

    def list_folders(self, uri: S3Uri) -> list[str]:
        """Return the names of the folders right below a prefix, without their slash, in order.

        Raises
        ------
        BucketError
            If S3 has no such bucket or refuses to list it.
        """
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=uri.bucket, Prefix=uri.key, Delimiter="/")
        with self._listing(uri.bucket):
            found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ())]
        return [name.removeprefix(uri.key).removesuffix("/") for name in found]

    def get(self, uri: S3Uri, most: int | None = None) -> bytes:
        """Return a whole (small) object, or with *most* its first bytes.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        S3Error
            If it cannot be read.
        """
        try:
            with (
                self._reading(uri.bucket),
                closing(self.client.get_object(Bucket=uri.bucket, Key=uri.key)["Body"]) as body,
            ):
                return cast("bytes", body.read(most))
        except S3Error as error:
            if error.code in _NOT_FOUND:
                raise FileNotFoundError(f"no such object in bucket {uri.bucket}") from None
            raise

    def get_file(self, uri: S3Uri, file: IO[bytes]) -> None:
        """Write an object of any size to an open file; the whole of it is never in memory.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        S3Error
            If S3 does not give it.
        """
        try:
            for piece in self.stream(uri):
                file.write(piece)
        except S3Error as error:
            if error.code in _NOT_FOUND:
                raise FileNotFoundError(f"no such object in bucket {uri.bucket}") from None
            raise

    def stream(self, uri: S3Uri, etag: str | None = None) -> Iterator[bytes]:
        """Yield an object's bytes piece by piece; after a broken connection it resumes at the next byte.

        Parameters
        ----------
        uri
            The object.
        etag
            Without quotes; S3 refuses (PreconditionFailed, 412) an object that has another etag by now.

        Raises
        ------
        S3Error
            If it cannot be read, for example with code NoSuchKey or PreconditionFailed; or if the connection breaks
            repeatedly without a byte between.
        """
        position, end, broken = 0, None, 0
        while end is None or position < end:
            try:
                with self._reading(uri.bucket):
                    reply = self._open(uri, etag, position)
                    etag, end = reply["ETag"].strip('"'), position + reply["ContentLength"]
                    for piece in reply["Body"].iter_chunks(_PIECE):
                        yield piece
                        position, broken = position + len(piece), 0
            except S3Error as error:
                broken += 1
                if error.code not in _BROKEN or broken > _RECONNECTS:
                    raise

    def _open(self, uri: S3Uri, etag: str | None, position: int) -> dict[str, Any]:
        wanted: dict[str, str] = {"Bucket": uri.bucket, "Key": uri.key}
        if etag is not None:
            wanted["IfMatch"] = etag
        if position:
            wanted["Range"] = f"bytes={position}-"
        return cast("dict[str, Any]", self.client.get_object(**wanted))

    def exists(self, uri: S3Uri) -> bool:
        """Return whether there is an object under exactly this key.

        Raises
        ------
        S3Error
            If it cannot be looked up.
        """
        return self._head(uri) is not None

    def find(self, uri: S3Uri) -> dict[str, Any] | None:
        """Return the object under exactly this key, as a row of `listing.LISTED`; None if there is none.

        Raises
        ------
        S3Error
            If it cannot be looked up.
        """
        reply = self._head(uri)
        if reply is None:
            return None
        version = reply.get("VersionId")
        return {
            "key": uri.key,
            "version_id": None if version in {None, "null"} else version,
            "etag": reply["ETag"].strip('"'),
            "size": reply["ContentLength"],
            "last_modified": reply["LastModified"],
        }

    def head(self, uri: S3Uri, etag: str) -> dict[str, Any]:
        """Return what S3 says of an object that still has this etag, with the checksums that it stores.

        Raises
        ------
        S3Error
            If it cannot be looked up, for example with code 404, or 412 if the object has another etag by now.
        """
        with self._looking_up(uri.bucket):
            where = {"Bucket": uri.bucket, "Key": uri.key, "IfMatch": f'"{etag}"'}
            return cast("dict[str, Any]", self.client.head_object(**where, ChecksumMode="ENABLED"))

    def _head(self, uri: S3Uri) -> dict[str, Any] | None:
        try:
            with self._looking_up(uri.bucket):
                return cast("dict[str, Any]", self.client.head_object(Bucket=uri.bucket, Key=uri.key))
        except S3Error as error:
            if error.code in _NOT_FOUND:
                return None
            raise

    def put(self, uri: S3Uri, body: bytes, content_type: str = "application/octet-stream") -> None:
        """Write a whole object; readers see it as a whole or not at all.

        Raises
        ------
        S3Error
            If it cannot be written.
        """
        with self._writing(uri.bucket):
            self.client.put_object(Bucket=uri.bucket, Key=uri.key, Body=body, ContentType=content_type)

    def put_file(self, uri: S3Uri, file: IO[bytes], content_type: str) -> None:
        """Write an open file of any size, from its beginning, as an object; it is never in memory as a whole."""
        whole = TransferConfig(multipart_threshold=_PUT_IN_ONE_CALL)
        file.seek(0)
        with self._writing(uri.bucket):
            extra = {"ContentType": content_type}
            self.client.upload_fileobj(file, uri.bucket, uri.key, ExtraArgs=extra, Config=whole)

    def delete(self, bucket: str, keys: list[str]) -> None:
        """Delete objects, a thousand per request.

        Raises
        ------
        PermissionError
            If S3 refuses some of them, which it reports in a successful answer.
        """
        for start in range(0, len(keys), 1000):
            names = [{"Key": key} for key in keys[start : start + 1000]]
            with self._translate_errors(f"objects in bucket {bucket!r} cannot be deleted", "DeleteObjects", bucket):
                reply = self.client.delete_objects(Bucket=bucket, Delete={"Objects": names, "Quiet": True})
            if refused := reply.get("Errors"):
                codes = ", ".join(sorted({item["Code"] for item in refused}))
                raise PermissionError(
                    f"{len(refused)} of {len(names)} objects in bucket {bucket} cannot be deleted ({codes}): "
                    f"give the role s3:DeleteObject there"
                )

    def copy(self, source: dict[str, str], etag: str, size: int, target: S3Uri) -> None:
        """Copy one object version within S3, if it still has this etag.

        Parameters
        ----------
        source
            ``Bucket``, ``Key`` and, where known, ``VersionId``, as boto3's ``CopySource`` takes them.
        etag
            Without quotes; S3 refuses the copy (PreconditionFailed, 412) if the object has another etag by now. The
            copy's own etag proves nothing: it may differ, since not every etag is the MD5 of the content (KMS, parts).
        size
            In bytes; above 5 GiB the copy is made in parts.
        target
            The address of the copy.

        Raises
        ------
        S3Error
            If it cannot be copied, for example with code PreconditionFailed or NoSuchKey.
        """
        between = source["Bucket"], target.bucket
        with self._translate_errors(_cannot_copy(*between), "CopyObject", *between):
            self._copy(source, etag, size, target)

    def _copy(self, source: dict[str, str], etag: str, size: int, target: S3Uri) -> None:
        guard = {"CopySource": source, "CopySourceIfMatch": etag}
        where = {"Bucket": target.bucket, "Key": target.key}
        if size <= COPY_IN_ONE_CALL:
            self._copy_whole(guard | where)
            return
        upload = self.client.create_multipart_upload(**where)["UploadId"]
        try:
            parts = [
                {"PartNumber": number, "ETag": self._copy_part(guard | where, upload, number, first, size)}
                for number, first in enumerate(range(0, size, _COPY_PART), start=1)
            ]
            whole = where | {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
            _ask_for_etag(lambda: self.client.complete_multipart_upload(**whole), guard | where)
        except BaseException:
            with suppress(*AWS_ERRORS):  # what failed first counts; the upload may have been completed, too
                self.client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def _copy_whole(self, copy: dict[str, Any]) -> None:
        _ask_for_etag(lambda: self.client.copy_object(**copy).get("CopyObjectResult"), copy)

    def _copy_part(self, copy: dict[str, Any], upload: str, number: int, first: int, size: int) -> str:
        last = min(first + _COPY_PART, size) - 1
        part = copy | {"UploadId": upload, "PartNumber": number, "CopySourceRange": f"bytes={first}-{last}"}
        return _ask_for_etag(lambda: self.client.upload_part_copy(**part).get("CopyPartResult"), copy)

    def make_copy_error(self, source_bucket: str, target_bucket: str, code: str) -> S3Error:
        """Return the error of a copy that S3 refuses with this code, or that fails with this class of botocore's."""
        between = source_bucket, target_bucket
        return self._make_error(_cannot_copy(*between), "CopyObject", code, *between)

    def _make_error(self, failure: str, operation: str, code: str, *buckets: str) -> S3Error:
        if code not in _REFUSALS:
            return S3Error(failure, operation, code)
        return BucketError(failure, operation, code, describe_owners(self._buckets, buckets))

    @contextmanager
    def _translate_errors(self, failure: str, operation: str, *buckets: str) -> Iterator[None]:
        """Raise a library's error as an `S3Error`, without the request that its text quotes."""
        try:
            yield
        except AWS_ERRORS as error:
            raise self._make_error(failure, operation, error_code(error), *buckets) from None

    def _listing(self, bucket: str) -> AbstractContextManager[None]:
        return self._translate_errors(f"bucket {bucket!r} cannot be listed", "ListObjectsV2", bucket)

    def _looking_up(self, bucket: str) -> AbstractContextManager[None]:
        return self._translate_errors(f"an object in bucket {bucket!r} cannot be looked up", "HeadObject", bucket)

    def _reading(self, bucket: str) -> AbstractContextManager[None]:
        return self._translate_errors(f"an object in bucket {bucket!r} cannot be read", "GetObject", bucket)

    def _writing(self, bucket: str) -> AbstractContextManager[None]:
        return self._translate_errors(f"an object in bucket {bucket!r} cannot be written", "PutObject", bucket)


def _ask_for_etag(send: Callable[[], dict[str, Any] | None], copy: dict[str, Any]) -> str:
    """Copy and return the copy's etag. boto3 takes an answer without a body for a success: only the etag says so."""
    for _ in range(_COPY_TRIES):
        if etag := (send() or {}).get("ETag"):
            return str(etag)
    raise S3Error(_cannot_copy(copy["CopySource"]["Bucket"], copy["Bucket"]), "CopyObject", "IncompleteReadError")


def _cannot_copy(source_bucket: str, target_bucket: str) -> str:
    return f"an object cannot be copied from bucket {source_bucket!r} to bucket {target_bucket!r}"


def requests_of_copy(size: int) -> int:
    """Return the number of requests that a copy of this many bytes takes."""
    return 1 if size <= COPY_IN_ONE_CALL else 2 + -(-size // _COPY_PART)


def _find_remedy(operation: str, code: str) -> str:
    """Return what a person can do about an error code."""
    if code in _REFUSALS:
        role = _PERMISSIONS[operation]
        return f"correct the address in the pipeline file, its aws_conn_id, or give the role {role} there"
    if code in BUSY:
        return "S3 is busy; clear the task later"
    if not code.endswith("Error"):
        return f"look the code up in S3's documentation of {operation}, fix the cause and clear the task"
    fix = _FIXES.get(code, "check the network and the endpoint of the Airflow connection")
    return f"{fix}, then clear the task"
