"""Reads of byte ranges of S3 objects; S3's errors become a reason for one object, or end the task.

An error about one object (gone, changed, forbidden) is a ``HeaderError``. An error about all of them (no connection,
refused credentials, no such bucket, throttling that outlasts the retries) is an ``S3UnavailableError``: the task fails
and is retried, and no arrival gets a reason that does not concern it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

import obstore
from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
from obstore.exceptions import GenericError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import S3Store

from airlock.dicom.errors import HeaderError
from airlock.reasons import Reason
from airlock.storage import connections
from airlock.storage.connections import find_authorities, read_authorities
from airlock.storage.protection import OWNER_HEADER
from airlock.storage.refusals import find_refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import boto3
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, S3Credential

    from airlock.dicom.ranged import Range
    from airlock.storage.s3 import S3

_log = logging.getLogger(__name__)
_CODE = re.compile(r"<Code>([\w.]+)</Code>")
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_REASONS = {  # besides those of `airlock.storage.refusals`
    "InvalidRequest": Reason.ACCESS_DENIED,
    "InvalidArgument": Reason.UNREADABLE,  # this server knows no such version id or key
    "InvalidURI": Reason.UNREADABLE,
    "KeyTooLongError": Reason.UNREADABLE,
    "InvalidObjectName": Reason.UNREADABLE,
    "XMinioInvalidObjectName": Reason.UNREADABLE,
    "ParamValidationError": Reason.UNREADABLE,  # botocore's own, of a key
}
_EXPLAINED = {
    "InvalidObjectState": "InvalidObjectState: the object is archived and not restored",
    "InvalidRequest": "InvalidRequest: S3's answer for an object under a key of the customer's own (SSE-C)",
}
_UNNAMED = {FileNotFoundError: "404", PreconditionError: "412", PermissionDeniedError: "403"}
_THROTTLED = frozenset({"SlowDown", "503", "ServiceUnavailable", "TooManyRequests", "429", "RequestLimitExceeded"})
_NO_ANSWER = "no answer"
_NO_CREDENTIALS = "no valid credentials"
_UNTRUSTED = "SSLError"  # botocore's name
_UNTRUSTED_IN_OBSTORE = "InvalidCertificate("  # of rustls
_WRONG_AUTHORITIES = (
    "{} is not a file or folder of certificates in PEM. Correct AWS_CA_BUNDLE, or verify in the extra of the Airflow "
    "connection."
)
_WRONG_PROXY = (  # without its address, which may hold a password
    "the proxy is not an address such as http://proxy:3128, or its proxy_ca_bundle not a file of certificates in PEM. "
    "Correct HTTPS_PROXY, or proxies and proxies_config in config_kwargs of the Airflow connection."
)
_THREADS = 5  # asyncio has at least as many; the timeout of a request starts when it has a thread
_AWS_ENDPOINT = re.compile(
    r"https://s3(?:[.-][a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?"
)  # not a VPC endpoint, which serves one Region
_ODD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")

# obstore asks again for credentials that expire within five minutes, at most ten times a second. botocore renews its
# own at least ten minutes before they expire; a longer life here would outlive them.
_CREDENTIAL_LIFE = timedelta(minutes=4)
_RETRIES_END = timedelta(minutes=5)  # retries keep the credentials of the first try
_BACKOFF = timedelta(milliseconds=100), timedelta(seconds=15)  # first and longest pause


class S3UnavailableError(RuntimeError):
    """S3 cannot be read at all: the task cannot continue."""


class Arrival(NamedTuple):
    """One object version, named as by a row of ``records.ARRIVALS``."""

    bucket: str
    key: str
    version_id: str | None
    etag: str
    size: int


class FetchSettings(Protocol):
    """The settings of ``pipelines.ParseSettings`` that ``RangeReader`` uses."""

    @property
    def request_timeout_seconds(self) -> float:
        """The timeout of one try of a request, including its body."""

    @property
    def retries(self) -> int:
        """The retries of one request."""

    @property
    def requests_per_second(self) -> float | None:
        """The highest rate of requests, not counting retries; None for no limit."""


class RequestRate:
    """Spaces requests evenly.

    Parameters
    ----------
    per_second
        The highest rate.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1 / per_second
        self._clock = clock
        self._free_from = clock()

    def reserve(self) -> float:
        """Reserve the next free time for a request, and return the seconds until then."""
        now = self._clock()
        turn = max(now, self._free_from)
        self._free_from = turn + self._interval
        return turn - now


class RangeReader:
    """Reads ranges of objects, if they are still the versions that were listed.

    obstore reads them and retries with backoff on 5xx, 429, broken connections and timeouts; it resumes a broken body
    with the same If-Match. boto3 reads the few objects that obstore cannot address, with the retries of the Airflow
    connection; and all of them if the connection has a setting that obstore does not know, as a client certificate.

    Parameters
    ----------
    s3
        The S3 account of the objects.
    settings
        Timeout, retries and rate of requests.
    """

    def __init__(self, s3: S3, settings: FetchSettings) -> None:
        self._s3 = s3
        self._settings = settings
        self._rate = RequestRate(settings.requests_per_second) if settings.requests_per_second else None
        self._stores: dict[str, S3Store] = {}
        self._regions: dict[str, str] = {}
        self._threads = asyncio.Semaphore(_THREADS)
        self._boto3_setting = connections.find_boto3_setting(s3.client)
        if self._boto3_setting:
            _log.warning(
                "boto3 reads all headers, %s at a time: the Airflow connection sets %s, which obstore does not know",
                _THREADS,
                self._boto3_setting,
            )

    def read(self, arrival: Arrival, span: Range) -> Awaitable[bytes]:
        """Request exactly these bytes of the object.

        Returns
        -------
        Awaitable[bytes]
            The bytes; without a limited rate the request starts before it is awaited.

        Raises
        ------
        HeaderError
            When awaited, if the object is gone, was changed, is forbidden, or is gzip-encoded.
        S3UnavailableError
            When awaited, if S3 cannot be read at all.
        """
        if self._boto3_setting or needs_boto3(arrival.key):
            return self._paced(arrival, span, self._through_boto3)
        if self._rate:
            return self._paced(arrival, span, self._through_obstore)
        return self._through_obstore(arrival, span, self._ask(arrival, span))

    async def _paced(
        self, arrival: Arrival, span: Range, through: Callable[[Arrival, Range], Awaitable[bytes]]
    ) -> bytes:
        if self._rate:
            await asyncio.sleep(self._rate.reserve())
        return await through(arrival, span)

    def _ask(self, arrival: Arrival, span: Range) -> Awaitable[GetResult]:
        options: GetOptions = {"range": span}
        if condition := _if_match(arrival.etag):
            options["if_match"] = condition
        if arrival.version_id:
            options["version"] = arrival.version_id
        try:
            return obstore.get_async(self._store(arrival.bucket), arrival.key, options=options)
        except ValueError as error:  # obstore cannot address the key, although `needs_boto3` expected it to
            return _raise_when_awaited(error)

    async def _through_obstore(
        self, arrival: Arrival, span: Range, answer: Awaitable[GetResult] | None = None
    ) -> bytes:
        try:
            result = await (answer or self._ask(arrival, span))
            data = bytes(await result.bytes_async())
        except Exception as error:  # noqa: BLE001  (obstore has many classes; each becomes a reason or ends the task)
            if not _is_from_obstore(error):
                raise self._translate_error(error, arrival) from None
            return await self._through_boto3(arrival, span)
        meta, encoding = result.meta, result.attributes.get("Content-Encoding", "")
        return _check_answer(_Answer(data, meta["size"], meta["e_tag"] or "", encoding), arrival, span)

    async def _through_boto3(self, arrival: Arrival, span: Range) -> bytes:
        request = {"Bucket": arrival.bucket, "Key": arrival.key, "Range": f"bytes={span.start}-{span.end - 1}"}
        if condition := _if_match(arrival.etag):
            request["IfMatch"] = condition
        if arrival.version_id:
            request["VersionId"] = arrival.version_id
        try:
            async with self._threads, asyncio.timeout(_retry_timeout(self._settings).total_seconds()):
                answer = await asyncio.to_thread(_get, self._s3.client, request, self._settings.retries)
        except Exception as error:  # noqa: BLE001  (as above, botocore's)
            raise self._translate_error(error, arrival) from None
        return _check_answer(answer, arrival, span)

    def _store(self, bucket: str) -> S3Store:
        store = self._stores.get(bucket)
        if store is None:
            region = self._regions[bucket] = find_region(self._s3, bucket)
            store = self._stores[bucket] = open_store(self._s3, bucket, region, self._settings)
        return store

    def _translate_error(self, error: Exception, arrival: Arrival) -> Exception:
        if isinstance(error, S3UnavailableError):
            return error
        code = _find_code(error, arrival.key)
        reason = find_refusal(code) or _REASONS.get(code)
        if reason:
            return HeaderError(reason, _EXPLAINED.get(code, code))
        return _make_outage_error(arrival.bucket, code, self._regions.get(arrival.bucket))


async def _raise_when_awaited(error: Exception) -> GetResult:
    raise error


def find_region(s3: S3, bucket: str) -> str:
    """Return a bucket's Region, or the client's if S3 does not name it.

    S3 names it in its answer to HeadBucket, even in a refusal. boto3 finds it by itself, obstore does not.
    """
    answer: dict[str, Any] = {}
    try:
        answer = s3.client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = cast("dict[str, Any]", error.response)
    except Exception as error:  # noqa: BLE001  (no answer or no credentials: the next read ends the task)
        _log.warning("The Region of bucket %s is not known: %s", bucket, type(error).__name__)
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", s3.client.meta.region_name))


def _endpoint(s3: S3, region: str) -> str:
    """Return the client's endpoint; if that is AWS's and the bucket is elsewhere, the endpoint of its Region."""
    meta = s3.client.meta
    if region == meta.region_name or not _AWS_ENDPOINT.fullmatch(meta.endpoint_url):
        return str(meta.endpoint_url)
    return str(s3.session.client("s3", region_name=region, config=meta.config).meta.endpoint_url)


def open_store(s3: S3, bucket: str, region: str, settings: FetchSettings) -> S3Store:
    """Return an obstore store of one bucket in its Region, with the session's credentials and these settings.

    It trusts the certificate authorities of the system and those that the client of boto3 was told to trust.
    Each of its requests names the account that must own the bucket; obstore signs such headers.

    Raises
    ------
    S3UnavailableError
        If the session has no credentials, or the authorities cannot be read.
    """
    endpoint, owner = _endpoint(s3, region), s3.find_owner(bucket)
    authorities = find_authorities(s3.client)
    try:
        return S3Store(
            bucket,
            endpoint=endpoint,
            region=region,
            virtual_hosted_style_request=False,
            credential_provider=SessionCredentials(s3.session, bucket),
            client_options={
                "allow_http": endpoint.startswith("http://"),
                **_proxy(s3.client, endpoint),
                "timeout": timedelta(seconds=settings.request_timeout_seconds),
                **_trust(authorities),
                **({"default_headers": {OWNER_HEADER: owner}} if owner else {}),
            },
            retry_config={
                "max_retries": settings.retries,
                "retry_timeout": _retry_timeout(settings),
                "backoff": {"init_backoff": _BACKOFF[0], "max_backoff": _BACKOFF[1], "base": 2},
            },
        )
    except (OSError, ValueError, GenericError) as error:  # not to be taken for a key that obstore cannot address
        causes = [_WRONG_AUTHORITIES.format(authorities)] if authorities else []
        if connections.find_proxy(s3.client, endpoint):
            causes.append(_WRONG_PROXY)
        cause = " Or ".join(causes) or "correct the endpoint of the Airflow connection"
        raise S3UnavailableError(f"bucket {bucket} cannot be read ({type(error).__name__}): {cause}") from None


def _proxy(client: Any, endpoint: str) -> ClientConfig:
    """Return the proxy of boto3's client; obstore knows only the environment's, and reads NO_PROXY in another way."""
    proxy = connections.find_proxy(client, endpoint)
    if proxy is None:  # obstore leaves the environment alone only if it is given a proxy, here one for no address
        return {"proxy_url": endpoint, "proxy_excludes": urlsplit(endpoint).hostname or ""}
    options: ClientConfig = {"proxy_url": proxy}
    if authorities := connections.find_proxy_authorities(client):
        options["proxy_ca_certificate"] = read_authorities(authorities).decode()
    return options


def _trust(authorities: Path | None) -> ClientConfig:
    """Return the authorities of boto3; obstore reads only the system's, and does not start where there are none."""
    return {"root_certificate": read_authorities(authorities)} if authorities else {"allow_invalid_certificates": True}


def _retry_timeout(settings: FetchSettings) -> timedelta:
    """Return the time within which all tries of a request must begin."""
    return min(timedelta(seconds=settings.request_timeout_seconds * (settings.retries + 1)), _RETRIES_END)


class SessionCredentials:
    """The current credentials of a boto3 session, for obstore; botocore renews them in time.

    Parameters
    ----------
    session
        The session.
    bucket
        The bucket that the error names.

    Raises
    ------
    S3UnavailableError
        If the session has no credentials.
    """

    def __init__(self, session: boto3.Session, bucket: str) -> None:
        credentials = session.get_credentials()
        if credentials is None:
            raise _make_outage_error(bucket, _NO_CREDENTIALS)
        self._credentials = credentials

    def __call__(self) -> S3Credential:
        """Return the credentials with which to sign requests in the next minutes."""
        now = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + _CREDENTIAL_LIFE,
        }


def needs_boto3(key: str) -> bool:
    """Return whether obstore cannot address a key: it refuses dot segments, and drops or refuses empty ones."""
    return not key.isprintable() or _ODD_SEGMENT.search(key) is not None


def _if_match(etag: str) -> str | None:
    """Return the If-Match condition for an etag without quotes, None if the etag cannot be used in one.

    A weak etag (``W/"...``) matches nothing (RFC 9110 section 13.1.1), and some etags fit in no header. These are only
    compared with the etag of the answer.
    """
    return f'"{etag}"' if etag and etag.isascii() and etag.isprintable() and '"' not in etag else None


def _opaque_tag(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


class _Answer(NamedTuple):
    data: bytes
    size: int  # of the whole object
    etag: str
    encoding: str


def _check_answer(answer: _Answer, arrival: Arrival, span: Range) -> bytes:
    if "gzip" in answer.encoding.lower():
        raise HeaderError(Reason.GZIP_ENCODED, "Content-Encoding gzip")
    if answer.size != arrival.size or len(answer.data) != span.length:
        raise HeaderError(Reason.OBJECT_CHANGED, "its size differs from the listing's")
    if answer.etag and arrival.etag and _opaque_tag(answer.etag) != _opaque_tag(arrival.etag):
        raise HeaderError(Reason.OBJECT_CHANGED, "its etag differs from the listing's")
    return answer.data


def _get(client: Any, request: dict[str, str], retries: int) -> _Answer:
    """Get a range; a broken body is requested again, since botocore does not retry bodies."""
    for tries_left in range(retries, -1, -1):
        reply = client.get_object(**request)
        try:
            data = cast("bytes", reply["Body"].read())
        except (HTTPClientError, IncompleteReadError):
            if not tries_left:
                raise
        else:
            size = int(reply["ContentRange"].rpartition("/")[2])
            return _Answer(data, size, reply.get("ETag", ""), reply.get("ContentEncoding", ""))
    raise AssertionError("unreachable: the last try returns or raises")


def _is_from_obstore(error: Exception) -> bool:
    """Return whether obstore itself failed, not S3: at a key, or at an answer with header values beyond ASCII."""
    if isinstance(error, GenericError):
        return _find_code(error, "") == type(error).__name__
    return isinstance(error, ValueError)


def _make_outage_error(bucket: str, code: str, region: str | None = None) -> S3UnavailableError:
    fix = "check the endpoint, the credentials, the bucket and its Region"
    if code in _THROTTLED:
        fix = "lower parse.in_flight, or set parse.requests_per_second"
    elif code == _UNTRUSTED:
        fix = "correct the endpoint, or name the certificate authority in AWS_CA_BUNDLE"
    where = f"{bucket} in {region}" if region else bucket
    return S3UnavailableError(f"a ranged read of bucket {where} failed with {code}: {fix}, then clear the task")


def _find_code(error: Exception, key: str) -> str:
    """Return S3's code of an error, or its HTTP status, or the class of an error that is not from S3."""
    if isinstance(error, ClientError):
        return str(error.response["Error"]["Code"])
    if isinstance(error, UnauthenticatedError):
        return _NO_CREDENTIALS
    text = str(error).partition("\n\nDebug source:")[0]
    found = _CODE.search(text.replace(key, "") if key else text)
    status = _STATUS.search(text)
    named = found[1] if found else _UNNAMED.get(type(error)) or (status[1] if status else "")
    if named or "HTTP error: " not in text:
        return named or type(error).__name__
    return _UNTRUSTED if _UNTRUSTED_IN_OBSTORE in str(error) else _NO_ANSWER
