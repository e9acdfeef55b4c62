"""An S3 server on loopback that goes wrong as a test wants it to: GetObject with ranges and If-Match, from memory."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from airlock.storage.protection import OWNER_HEADER
from tests.servers.serving import QuietHandler, serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

    Fault = Callable[["Handler", dict[str, str], bytes], None]  # is given the right answer, its head and body, to spoil

ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>no</Message><Key>{}</Key></Error>'


class Request(NamedTuple):
    """What a client has asked for."""

    key: str
    range: str  # as 0-15
    if_match: str | None
    access_key: str
    owner: str | None = None  # whom it expects to own the bucket, if that is signed


class FaultyS3:
    """The server's state: its objects by key, of whatever bucket.

    Attributes
    ----------
    faults
        What the next answers are instead of the right ones, one each.
    always
        What every answer is, once ``faults`` is empty.
    before
        Called before each request is looked at, with its number from 0.
    accepts
        The access keys that may read; empty for all.
    region
        Of its buckets: HeadBucket names it, and what is signed for another one is refused.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.before: Callable[[int], None] = lambda _number: None
        self.accepts: set[str] = set()
        self.heeds_if_match = True
        self.region = "us-east-1"
        self.looked_up = 0  # HeadBucket
        self.lists = True  # whether HeadBucket is allowed
        self.lock = threading.Lock()

    def put(self, key: str, body: bytes) -> str:
        """Store an object, and return its etag without the quotes."""
        self.objects[key] = body
        return etag(body)

    def next_fault(self) -> Fault | None:
        """Return what is to go wrong with the answer at hand."""
        with self.lock:
            return self.faults.popleft() if self.faults else self.always


def etag(body: bytes) -> str:
    """Return an object's etag, without the quotes."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


class Handler(QuietHandler):
    """Answers GetObject."""

    wbufsize = 0  # what a fault writes arrives at once
    s3: FaultyS3

    def do_HEAD(self) -> None:
        self.s3.looked_up += 1
        self.begin(200 if self.s3.lists else 403, 0, {"x-amz-bucket-region": self.s3.region})

    def do_GET(self) -> None:
        self.s3.before(len(self.s3.requests))
        request = self._request()
        self.s3.requests.append(request)
        fault = self.s3.next_fault()
        if self.s3.accepts and request.access_key not in self.s3.accepts:
            return self.refuse(403, "InvalidAccessKeyId")
        if f"/{self.s3.region}/s3/" not in self.headers["Authorization"]:
            return self.refuse(400, "AuthorizationHeaderMalformed")
        whole = self.s3.objects.get(request.key)
        if whole is None:
            return self.refuse(404, "NoSuchKey")
        if self.s3.heeds_if_match and request.if_match not in {None, f'"{etag(whole)}"'}:
            return self.refuse(412, "PreconditionFailed")
        first, last = map(int, request.range.split("-"))
        body = whole[first : last + 1]
        head = {"ETag": f'"{etag(whole)}"', "Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(whole)}"}
        if fault is not None:
            return fault(self, head, body)
        return self.answer(206, body, head)

    def _request(self) -> Request:
        key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
        signature = self.headers.get("Authorization", "")
        access_key = re.search(r"Credential=(\w+)/", signature)
        span = self.headers["Range"].removeprefix("bytes=")
        owner = self.headers.get(OWNER_HEADER) if OWNER_HEADER in signature else None
        return Request(key, span, self.headers.get("If-Match"), access_key[1] if access_key else "", owner)

    def refuse(self, status: int, code: str) -> None:
        """Answer an error, as S3 does: the key is in it."""
        self.answer(status, ERROR.format(code, self.path))

    def begin(self, status: int, length: int, head: Mapping[str, str] | None = None) -> None:
        """Send everything before the body, with a date."""
        super().begin(status, length, {"Last-Modified": "Tue, 24 Nov 2026 02:00:00 GMT", **(head or {})})


def refusal(status: int, code: str) -> Fault:
    """Make an answer an S3 error."""
    return lambda handler, _head, _body: handler.refuse(status, code)


def cut(after: int) -> Fault:
    """Make the connection break within the body, behind so many bytes of it."""

    def spoil(handler: Handler, head: dict[str, str], body: bytes) -> None:
        handler.begin(206, len(body), head)
        handler.wfile.write(body[:after])
        handler.close_connection = True

    return spoil


@contextmanager
def faulty_s3(context: ssl.SSLContext | None = None) -> Iterator[FaultyS3]:
    """Yield an empty server, with TLS if there is a context for it."""
    s3 = FaultyS3()
    with serving(Handler, context, s3=s3) as s3.endpoint:
        yield s3
