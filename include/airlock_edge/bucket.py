"""Verified uploads: S3 computes the checksum of what it stored, and the edge compares it."""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import suppress
from functools import partial
from threading import BoundedSemaphore
from typing import IO, TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config

from airlock.storage.aws import AWS_ERRORS, error_code
from airlock.storage.protection import protect_buckets
from airlock.storage.s3uri import S3Uri
from airlock_edge.clients import LastingClient

if TYPE_CHECKING:
    from pathlib import Path

    from airlock_edge.settings import Destination

_IN_ONE_CALL: Final = 1024**3  # bytes; PutObject takes five times that
_PART: Final = 64 * 1024**2  # of a larger object; 10,000 parts are 640 GB
_LARGE_AT_ONCE: Final = 4  # uploads in parts, each with one part in memory
_TRIES: Final = 3  # of one request, by botocore
_CONTENT_TYPE: Final = "application/dicom"
_CODE: Final = re.compile(r"[A-Za-z0-9_.]{1,64}").fullmatch


class UploadError(OSError):
    """S3 does not have an object for certain; the text has S3's code, and no key.

    Parameters
    ----------
    code
        S3's error code, the class of the library's error, or ``ChecksumMismatch``.
    """

    def __init__(self, code: str) -> None:
        code = code if _CODE(code) else "UnreadableCode"  # it comes from the network into the log
        super().__init__(f"S3 does not confirm an object ({code}): {_find_remedy(code)}")
        self.code = code


_REMEDIES: Final = {
    "NoCredentialsError": "give the edge's user credentials, as docs/edge.md says",
    "CredentialRetrievalError": "give the edge's user credentials, as docs/edge.md says",
    "ExpiredToken": "renew the edge's credentials",
    "ExpiredTokenException": "renew the edge's credentials",
    "InvalidAccessKeyId": "correct the edge's credentials",
    "AccessDenied": "compare the edge's rights with iam/edge-policy.json, and destination in its settings",
    "NoSuchBucket": "correct destination.uri",
    "ChecksumMismatch": "the bytes changed on the way; the edge tries again",
    "BadDigest": "the bytes changed on the way; the edge tries again",
}


def _find_remedy(code: str) -> str:
    return _REMEDIES.get(code, "check the network and the endpoint; the edge tries again")


class Bucket:
    """The bucket that receives the objects; threads may share it.

    Parameters
    ----------
    settings
        The section ``destination``.
    connections
        Requests at a time.
    """

    def __init__(self, settings: Destination, connections: int) -> None:
        self.uri = S3Uri.parse(settings.uri)
        self._large = BoundedSemaphore(_LARGE_AT_ONCE)
        self._client = LastingClient(partial(self._make_client, settings, connections))

    def _make_client(self, settings: Destination, connections: int) -> Any:
        config = Config(
            max_pool_connections=connections,
            connect_timeout=settings.timeout_seconds,
            read_timeout=settings.timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            request_checksum_calculation="when_required",  # the edge gives them itself
            s3={"payload_signing_enabled": False},
        )
        client = boto3.session.Session().client(
            "s3", region_name=settings.region_name, endpoint_url=settings.endpoint_url, config=config
        )
        protect_buckets(client, {self.uri.bucket: settings})
        return client

    def upload(self, path: Path, key: str, sha256: str, size: int) -> None:
        """Put a file on S3 and return when S3 has confirmed its checksum.

        Parameters
        ----------
        path
            The file.
        key
            Of the object.
        sha256
            Hex digest of the file, as it was computed when the bytes came from the network.
        size
            Bytes of the file.

        Raises
        ------
        UploadError
            If S3 refuses, does not answer, or stored other bytes.
        FileNotFoundError
            If the file is not there.
        """
        where = {"Bucket": self.uri.bucket, "Key": key}
        with path.open("rb") as file:
            try:
                if size <= _IN_ONE_CALL:
                    self._put(file, where, sha256, size)
                else:
                    with self._large:
                        self._put_parts(file, where, sha256)
            except OSError:  # UploadError, or the file's own
                raise
            except Exception as error:  # noqa: BLE001 - botocore raises AWS_ERRORS, and anything on an answer that lies
                raise UploadError(error_code(error)) from None

    def put_text(self, key: str, body: bytes) -> None:
        """Write a small JSON object.

        Raises
        ------
        UploadError
            If S3 refuses, does not answer, or stored other bytes.
        """
        checksum = _encode(hashlib.sha256(body).digest())
        try:
            answer = self._client.call(
                "put_object",
                Bucket=self.uri.bucket,
                Key=key,
                Body=body,
                ContentType="application/json",
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=checksum,
            )
        except Exception as error:  # noqa: BLE001 - as above
            raise UploadError(error_code(error)) from None
        _compare(answer, checksum)

    def _put(self, file: IO[bytes], where: dict[str, str], sha256: str, size: int) -> None:
        checksum = _encode(bytes.fromhex(sha256))
        answer = self._client.call(
            "put_object",
            **where,
            Body=file,
            ContentLength=size,
            ContentType=_CONTENT_TYPE,
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=checksum,
        )
        _compare(answer, checksum)

    def _put_parts(self, file: IO[bytes], where: dict[str, str], sha256: str) -> None:
        """Put a large file in parts, each with its checksum; the parts together must have the file's own."""
        upload = self._client.call(
            "create_multipart_upload", **where, ContentType=_CONTENT_TYPE, ChecksumAlgorithm="SHA256"
        )["UploadId"]
        try:
            parts = self._put_each(file, where | {"UploadId": upload}, sha256)
            answer = self._client.call(
                "complete_multipart_upload", **where, UploadId=upload, MultipartUpload={"Parts": parts}
            )
            _compare(answer, _join([part["ChecksumSHA256"] for part in parts]))
        except BaseException:
            with suppress(*AWS_ERRORS):  # the first failure counts
                self._client.call("abort_multipart_upload", **where, UploadId=upload)
            raise

    def _put_each(self, file: IO[bytes], upload: dict[str, str], sha256: str) -> list[dict[str, Any]]:
        whole, parts = hashlib.sha256(), []
        for number, content in enumerate(iter(lambda: file.read(_PART), b""), start=1):
            whole.update(content)
            checksum = _encode(hashlib.sha256(content).digest())
            answer = self._client.call(
                "upload_part",
                **upload,
                PartNumber=number,
                Body=content,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=checksum,
            )
            _compare(answer, checksum)
            parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum})
        if whole.hexdigest() != sha256:
            raise UploadError("ChecksumMismatch")
        return parts


def _compare(answer: dict[str, Any], checksum: str) -> None:
    if answer.get("ChecksumSHA256") != checksum:
        raise UploadError("ChecksumMismatch")


def _encode(checksum: bytes) -> str:
    return base64.b64encode(checksum).decode()


def _join(checksums: list[str]) -> str:
    """Return the composite checksum of an object in parts, as S3 computes it."""
    whole = hashlib.sha256(b"".join(map(base64.b64decode, checksums)))
    return f"{_encode(whole.digest())}-{len(checksums)}"
