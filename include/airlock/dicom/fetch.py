"""Byte ranges of S3 objects, and what S3's refusals mean: a reason for one object, or the end of the task.

One object's trouble (it is gone, changed, forbidden) is a ``HeaderError``. Whatever concerns all of them (no
connection, refused credentials, no such bucket, throttling that outlasts the retries) is ``S3UnavailableError``: the
task fails and is retried, and no arrival gets a reason that is not its own.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import obstore
from botocore.exceptions import ClientError
from obstore.exceptions import PermissionDeniedError, PreconditionError

from airlock.dicom.errors import HeaderError
from airlock.reasons import Reason

if TYPE_CHECKING:
    from obstore import GetOptions

    from airlock.dicom.ranged import Range
    from airlock.s3 import S3

_CODE = re.compile(r"<Code>([\w.]+)</Code>")
_REASONS = {  # by S3's error code, or the status where a server gives no code
    "NoSuchKey": Reason.OBJECT_GONE,
    "NoSuchVersion": Reason.OBJECT_GONE,
    "404": Reason.OBJECT_GONE,
    "MethodNotAllowed": Reason.OBJECT_GONE,  # the version is a delete marker
    "PreconditionFailed": Reason.OBJECT_CHANGED,
    "412": Reason.OBJECT_CHANGED,
    "InvalidRange": Reason.OBJECT_CHANGED,
    "416": Reason.OBJECT_CHANGED,
    "AccessDenied": Reason.ACCESS_DENIED,
    "403": Reason.ACCESS_DENIED,
    "InvalidObjectState": Reason.ACCESS_DENIED,  # archived in Glacier and not restored
}
_UNNAMED = {FileNotFoundError: "404", PreconditionError: "412", PermissionDeniedError: "403"}


class S3UnavailableError(RuntimeError):
    """S3 gave no answer that concerns one object: the task cannot go on."""


class Arrival(NamedTuple):
    """One object version, as a row of ``records.ARRIVALS`` names it."""

    bucket: str
    key: str
    version_id: str | None
    etag: str
    size: int


class FetchSettings(Protocol):
    """What ``RangeReader`` needs of ``pipelines.ParseSettings``."""

    @property
    def request_timeout_seconds(self) -> float:
        """For one request."""

    @property
    def retries(self) -> int:
        """Of one request."""


class RangeReader:
    """Reads ranges of objects, as long as they are the versions that were listed.

    Parameters
    ----------
    s3
        Whose objects.
    settings
        How long one range may take, its retries included. The clients back off and retry by themselves.
    """

    def __init__(self, s3: S3, settings: FetchSettings) -> None:
        self._s3 = s3
        self._patience = settings.request_timeout_seconds * (settings.retries + 1)

    async def read(self, arrival: Arrival, span: Range) -> bytes:
        """Return exactly these bytes of the object.

        Raises
        ------
        HeaderError
            If the object is gone, was changed, is forbidden, or is gzip-encoded.
        S3UnavailableError
            If no object can be read now.
        """
        through = self._through_boto3 if needs_boto3(arrival.key) else self._through_obstore
        try:
            async with asyncio.timeout(self._patience):
                data, size, encoding = await through(arrival, span)
        except Exception as error:  # noqa: BLE001  (client libraries; each is named, as a reason or as the task's end)
            raise _meaning(error, arrival) from None
        if "gzip" in encoding.lower():
            raise HeaderError(Reason.GZIP_ENCODED, f"Content-Encoding {encoding}")
        if size != arrival.size or len(data) != span.length:
            raise HeaderError(Reason.OBJECT_CHANGED, "its size differs from the listing's")
        return data

    async def _through_obstore(self, arrival: Arrival, span: Range) -> tuple[bytes, int, str]:
        options: GetOptions = {"range": (span.start, span.end)}
        if arrival.etag:
            options["if_match"] = f'"{arrival.etag}"'
        if arrival.version_id:
            options["version"] = arrival.version_id
        result = await obstore.get_async(self._s3.store(arrival.bucket), arrival.key, options=options)
        data = bytes(await result.bytes_async())
        return data, result.meta["size"], str(result.attributes.get("Content-Encoding", ""))

    async def _through_boto3(self, arrival: Arrival, span: Range) -> tuple[bytes, int, str]:
        request = {"Bucket": arrival.bucket, "Key": arrival.key, "Range": f"bytes={span.start}-{span.end - 1}"}
        if arrival.etag:
            request["IfMatch"] = f'"{arrival.etag}"'
        if arrival.version_id:
            request["VersionId"] = arrival.version_id
        return await asyncio.to_thread(_get, self._s3.client, request)


def needs_boto3(key: str) -> bool:
    """Say whether obstore cannot address a key: it refuses dot segments, and drops or refuses empty ones."""
    return not key.isprintable() or any(part in {"", ".", ".."} for part in key.split("/"))


def _get(client: Any, request: dict[str, str]) -> tuple[bytes, int, str]:
    reply = client.get_object(**request)
    size = int(reply["ContentRange"].rpartition("/")[2])
    return cast("bytes", reply["Body"].read()), size, reply.get("ContentEncoding", "")


def _meaning(error: Exception, arrival: Arrival) -> Exception:
    code = _code(error, arrival.key)
    reason = Reason.ACCESS_DENIED if code.startswith("KMS.") else _REASONS.get(code)
    if reason:
        return HeaderError(reason, code)
    return S3UnavailableError(
        f"a ranged read of bucket {arrival.bucket} failed with {code}: check the endpoint, the credentials and the "
        "bucket, then clear the task"
    )


def _code(error: Exception, key: str) -> str:
    """Return S3's code for what went wrong, or the class of an error that is not S3's."""
    if isinstance(error, ClientError):
        return str(error.response["Error"]["Code"])
    found = _CODE.search(str(error).replace(key, ""))
    return found[1] if found else _UNNAMED.get(type(error), type(error).__name__)
