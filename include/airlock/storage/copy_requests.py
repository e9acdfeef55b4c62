"""CopyObject requests in the form of one that boto3 has sent, signed by botocore.

boto3 decides the endpoint, the addressing style, the Region, the way of signing and the headers of settings. Where it
does something that the other requests could not repeat, as for directory buckets, there is no form to follow.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.utils import percent_encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.awsrequest import AWSPreparedRequest
    from botocore.credentials import Credentials, ReadOnlyCredentials

    from airlock.storage.s3uri import S3Uri

_SENT = "before-send.s3.CopyObject"  # boto3's event, for each try
_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=.+/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request,")
_SOURCE, _IF_MATCH = "x-amz-copy-source", "x-amz-copy-source-if-match"
_OF_EACH = frozenset(  # set by the signer, by aiohttp, or by boto3 for each try
    {
        *("authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"),
        *("host", "content-length", "amz-sdk-invocation-id", "amz-sdk-request", _SOURCE, _IF_MATCH),
    }
)
_EXPRESS = "x-amz-s3session-token"  # directory buckets have sessions of their own


class Copy(NamedTuple):
    """One object version, and where its copy goes."""

    bucket: str
    key: str
    version_id: str | None
    etag: str  # without quotes
    size: int  # bytes
    target: S3Uri

    @property
    def source(self) -> dict[str, str]:
        """The object as boto3's ``CopySource``."""
        source = {"Bucket": self.bucket, "Key": self.key}
        return source | {"VersionId": self.version_id} if self.version_id else source

    @property
    def is_plain(self) -> bool:
        """Whether etag and version id fit in a header as they are."""
        text = self.etag + (self.version_id or "")
        return text.isascii() and text.isprintable()


@contextmanager
def noting_requests(client: Any) -> Iterator[list[AWSPreparedRequest]]:
    """Note the CopyObject requests that a boto3 client sends in this thread within the block."""
    noted: list[AWSPreparedRequest] = []
    thread = get_ident()

    def note(request: AWSPreparedRequest, **_: Any) -> None:
        if get_ident() == thread:
            noted.append(request)

    client.meta.events.register(_SENT, note)
    try:
        yield noted
    finally:
        client.meta.events.unregister(_SENT, note)


class _Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """botocore's signer, which derives its key once a day instead of for each request."""

    _derived: tuple[str, bytes] = ("", b"")  # what the key is for, and the key

    def signature(self, string_to_sign: str, request: AWSRequest) -> str:
        """Return the signature as the base class makes it."""
        scope = self.credential_scope(request)
        if self._derived[0] != scope:
            key = f"AWS4{self.credentials.secret_key}".encode()
            for part in scope.split("/"):
                key = self._sign(key, part)
            self._derived = scope, key
        return str(self._sign(self._derived[1], string_to_sign, hex=True))


@dataclass
class CopyForm:
    """What the copies from one bucket to another have in common.

    Parameters
    ----------
    url
        The address of a copy, up to its key.
    source
        The header that names the source, up to its key.
    headers
        The headers that all requests have.
    region, service
        What requests are signed for.
    credentials
        The client's credentials, which botocore renews in time.
    """

    url: str
    source: str
    headers: dict[str, str]
    region: str
    service: str
    credentials: Credentials
    _signer: _Signer | None = None

    @classmethod
    def of(cls, request: AWSPreparedRequest, copy: Copy, credentials: Credentials) -> Self | None:
        """Return the form of a request that boto3 has sent for a copy; None if others cannot follow it."""
        headers = {name.lower(): _as_text(value) for name, value in request.headers.items()}
        scope = _SCOPE.match(headers.get("authorization", ""))
        url, source = _encode_key(copy.target.key), _encode_source(copy)
        if scope is None or _EXPRESS in headers:
            return None
        if not (request.url.endswith(f"/{url}") and headers[_SOURCE].endswith(f"/{source}")):
            return None
        host = _Signer(None, scope["service"], scope["region"]).headers_to_sign(request)["host"]
        return cls(
            url=request.url.removesuffix(url),
            source=headers[_SOURCE].removesuffix(source),
            headers={name: value for name, value in headers.items() if name not in _OF_EACH} | {"host": host},
            region=scope["region"],
            service=scope["service"],
            credentials=credentials,
        )

    def sign(self, copy: Copy, credentials: ReadOnlyCredentials) -> tuple[str, dict[str, str]]:
        """Return the URL and the signed headers of a copy's request."""
        own = {_SOURCE: self.source + _encode_source(copy), _IF_MATCH: copy.etag}
        url = self.url + _encode_key(copy.target.key)
        request = AWSRequest("PUT", url, headers=self.headers | own)
        if self._signer is None or self._signer.credentials != credentials:
            self._signer = _Signer(credentials, self.service, self.region)
        self._signer.add_auth(request)
        return url, dict(request.headers.items())


def _encode_key(key: str) -> str:
    return str(percent_encode(key, safe="/~"))  # as botocore writes it in a URL


def _encode_source(copy: Copy) -> str:
    """Return the key of a copy's source and its version, as botocore writes them."""
    encoded = percent_encode(copy.key, safe="-._~/")
    return f"{encoded}?versionId={copy.version_id}" if copy.version_id else str(encoded)


def _as_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
