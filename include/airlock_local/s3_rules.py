"""Rules of S3 that moto does not have: conditions on a copy's source, checksums, etags of objects under a KMS key."""

from __future__ import annotations

import base64
import hashlib
import uuid
from functools import cache, wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlparse

from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.s3.exceptions import PreconditionFailed, S3ClientError
from moto.s3.models import FakeKey
from moto.s3.responses import S3Response

if TYPE_CHECKING:
    from collections.abc import Callable

_Answer = tuple[int, dict[str, Any], str | bytes]
_Checksum = tuple[str, str | None]
_hash_of_content: Any = FakeKey.etag


def apply_s3_rules() -> None:
    """Make this process's moto refuse copies and wrong checksums as S3 does.

    Objects under a KMS key get etags that are not MD5s.

    It also remembers which service a host belongs to: moto lists its own folder for each request, 40 % of its time.
    """
    find_backend = DomainDispatcherApplication.get_backend_for_host
    DomainDispatcherApplication.get_backend_for_host = cache(find_backend)  # type: ignore[method-assign]
    S3Response.copy_object = _guarded(S3Response.copy_object)  # type: ignore[method-assign, assignment]
    S3Response.upload_part_copy = _guarded(S3Response.upload_part_copy)  # type: ignore[method-assign, assignment]
    S3Response._get_checksum = _checked(S3Response._get_checksum)  # type: ignore[method-assign]  # noqa: SLF001
    FakeKey.etag = property(_etag)  # type: ignore[method-assign, assignment]


def _guarded(copy: Callable[[S3Response], _Answer]) -> Callable[[S3Response], _Answer]:
    @wraps(copy)
    def guarded(response: S3Response) -> _Answer:
        wanted = response.headers.get("x-amz-copy-source-if-match")
        if wanted is not None:
            source = urlparse(response.headers["x-amz-copy-source"])
            bucket, key = unquote(source.path).lstrip("/").split("/", 1)
            found = response.backend.get_object(
                bucket, key, version_id=parse_qs(source.query).get("versionId", [None])[0]
            )
            if found is not None and found.etag.strip('"') != wanted.strip('"'):
                raise PreconditionFailed(failed_condition="x-amz-copy-source-If-Match")
        return copy(response)

    return guarded


def _checked(get_checksum: Callable[..., _Checksum]) -> Callable[..., _Checksum]:
    """Return a method that refuses a body with another SHA-256 than the request names; moto believes the request."""

    @wraps(get_checksum)
    def checked(response: S3Response, headers: dict[str, Any]) -> _Checksum:
        named = response.headers.get("x-amz-checksum-sha256")
        if named is not None and named != base64.b64encode(hashlib.sha256(response.body).digest()).decode():
            raise S3ClientError("BadDigest", "The SHA256 you specified did not match the calculated checksum.")
        return get_checksum(response, headers)

    return checked


def _etag(key: FakeKey) -> Any:
    if key._etag is None and (key.encryption or "").startswith("aws:kms"):  # noqa: SLF001  (moto has no other way)
        key._etag = uuid.uuid4().hex  # noqa: SLF001
    return _hash_of_content.fget(key)
