"""An S3 server on loopback that judges each request by policies of iam/ before moto answers it.

moto judges conditions of no policy, and no bucket policy. This server stands before the same moto: it names the
operation of a request, looks up in `tests.iam_table` which rights that takes, and asks the policies. It knows the
operations that Airlock uses; any other is an error of the test.

These rules of S3 are its own, because they belong to no policy:

- A missing object is told from a forbidden one only to who may list it: S3 then asks for ``s3:ListBucket`` with the key
  as ``s3:prefix`` (S3 API reference, HeadObject; Ceph's pull request 68577 does the same "to match aws behavior").
- The parts of an upload and its end count with the encryption that its beginning has named: their requests have no such
  header. Reported of S3 since 2018 (aws-cli issue 1674); not confirmed on an account.
- HeadBucket has no ``s3:prefix``, and S3 names the Region even in a refusal.
- A request may name the account that it expects to own the bucket.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, unquote

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from airlock_local.s3_rules import apply_s3_rules
from tests.iam_policies import Request, allow
from tests.iam_table import OPERATIONS
from tests.servers.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.iam_policies import Policy

apply_s3_rules()

ENCRYPTION = "s3:x-amz-server-side-encryption"
KEY = "s3:x-amz-server-side-encryption-aws-kms-key-id"
_OWNER = "x-amz-expected-bucket-owner"
_REGION = ("x-amz-bucket-region", "us-east-1")
_DENIED = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>{}</Message></Error>'


class Refusal(NamedTuple):
    """A request that was refused, or would have been."""

    operation: str
    action: str
    resource: str
    by: str  # the Sid of the bucket policy's statement; "no policy allows it" for the caller's own policies


@dataclass
class Guard:
    """What the server judges by, and what it has judged.

    Attributes
    ----------
    identity
        The policies of the caller; None if the caller may do everything.
    buckets
        The policy of each bucket that has one.
    context
        The condition keys that every request has, such as ``aws:SecureTransport``: it is moto's own that is not TLS.
    owner
        The account that owns the buckets; a request that expects another one is refused.
    refuses
        Whether it refuses; otherwise it only notes what it would refuse.
    """

    identity: list[Policy] | None = None
    buckets: dict[str, Policy] = field(default_factory=dict)
    context: dict[str, str] = field(default_factory=lambda: {"aws:SecureTransport": "true"})
    owner: str = "123456789012"
    refuses: bool = True
    asked: Counter[str] = field(default_factory=Counter)  # operations
    refused: list[Refusal] = field(default_factory=list)
    unowned: set[tuple[str, str]] = field(default_factory=set)  # operation and bucket, where no owner was expected
    begun: dict[str, dict[str, str]] = field(default_factory=dict)  # by upload id: the encryption that it began with

    def judge(self, call: Call) -> Refusal | None:
        """Return why a request is refused; None if it is not."""
        self.asked[call.operation] += 1
        if _OWNER not in call.headers:
            self.unowned.add((call.operation, call.bucket))
        found = next(filter(None, (self._judge(call, action, arn) for action, arn in call.rights())), None)
        if found is not None:
            self.refused.append(found)
        return found

    def hides(self, call: Call) -> bool:
        """Return whether the caller may not know that an object is missing."""
        asked = Request("s3:ListBucket", f"arn:aws:s3:::{call.bucket}", {"s3:prefix": call.key})
        return self.identity is not None and not allow(self.identity, asked)

    def _judge(self, call: Call, action: str, arn: str) -> Refusal | None:
        if call.headers.get(_OWNER, self.owner) != self.owner:
            return Refusal(call.operation, action, arn, "another account owns the bucket")
        context = self.context | call.context(self.begun)
        asked = Request(action, arn, context)
        if self.identity is not None and not allow(self.identity, asked):
            return Refusal(call.operation, action, arn, "no policy allows it")
        policy = self.buckets.get(arn.removeprefix("arn:aws:s3:::").split("/")[0])
        sid = policy.find("Deny", asked) if policy else None
        return Refusal(call.operation, action, arn, sid) if sid else None


@dataclass(frozen=True)
class Call:
    """A request to S3, path-style."""

    method: str
    bucket: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def operation(self) -> str:
        """The operation, as the table names it."""
        return f"s3:{self._of_object() if self.key else self._of_bucket()}"

    def rights(self) -> Iterator[tuple[str, str]]:
        """Yield the actions that the operation takes, each with its ARN; keys of KMS are not judged here."""
        for right in OPERATIONS[self.operation]:
            if right.version in {None, self._names_version(right.on)}:
                for arn in self._arns(right.on):
                    yield right.action, arn

    def context(self, begun: dict[str, dict[str, str]]) -> dict[str, str]:
        """Return the condition keys of S3 that the request has."""
        prefix = {"s3:prefix": self.query["prefix"][0]} if "prefix" in self.query else {}
        named = {key: self.headers[key.partition(":")[2]] for key in (ENCRYPTION, KEY) if key[3:] in self.headers}
        return prefix | named | begun.get(self.query.get("uploadId", [""])[0], {})

    def _of_bucket(self) -> str:
        if self.method == "GET" and "list-type" in self.query:
            return "ListObjectsV2"
        return {("HEAD", False): "HeadBucket", ("POST", True): "DeleteObjects"}[self.method, "delete" in self.query]

    def _of_object(self) -> str:
        if "uploadId" in self.query or "uploads" in self.query:
            return self._of_upload()
        if self.method == "PUT":
            return "CopyObject" if "x-amz-copy-source" in self.headers else "PutObject"
        return {"GET": "GetObject", "HEAD": "HeadObject"}[self.method]

    def _of_upload(self) -> str:
        if self.method == "PUT":
            return "UploadPartCopy" if "x-amz-copy-source" in self.headers else "UploadPart"
        if self.method == "DELETE":
            return "AbortMultipartUpload"
        return "CreateMultipartUpload" if "uploads" in self.query else "CompleteMultipartUpload"

    def _names_version(self, on: str) -> bool:
        return "versionId=" in self.headers["x-amz-copy-source"] if on == "source" else "versionId" in self.query

    def _arns(self, on: str) -> list[str]:
        if on == "bucket":
            return [f"arn:aws:s3:::{self.bucket}"]
        if on == "source":
            return [f"arn:aws:s3:::{unquote(self.headers['x-amz-copy-source'].partition('?')[0]).lstrip('/')}"]
        if on == "object":
            keys = re.findall(r"<Key>(.*?)</Key>", self.body.decode()) if "delete" in self.query else [self.key]
            return [f"arn:aws:s3:::{self.bucket}/{key}" for key in keys]
        return []


class _Application:
    """moto's application behind the guard."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.moto: Any = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        call = _read_call(environ)
        refusal = self.guard.judge(call)
        if refusal is not None and self.guard.refuses:
            return _deny(start_response, refusal.by)
        answered: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            answered.update(status=status, headers=headers)

        body = b"".join(self.moto(environ, start))
        if answered["status"].startswith("404") and call.method in {"GET", "HEAD"} and self.guard.hides(call):
            self.guard.refused.append(Refusal(call.operation, "s3:ListBucket", call.key, "a missing object is hidden"))
            return _deny(start_response, "it may not be known whether the object exists")
        if call.operation == "s3:CreateMultipartUpload":
            (upload,) = re.findall(r"<UploadId>(.*?)</UploadId>", body.decode())
            self.guard.begun[upload] = call.context({})
        start_response(answered["status"], answered["headers"])
        return [body]


def _read_call(environ: dict[str, Any]) -> Call:
    bucket, _, key = unquote(environ.get("RAW_URI", environ["PATH_INFO"]).partition("?")[0]).lstrip("/").partition("/")
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    headers = {name[5:].lower().replace("_", "-"): value for name, value in environ.items() if name[:5] == "HTTP_"}
    body = b""
    if "delete" in query:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(body)
    return Call(environ["REQUEST_METHOD"], bucket, key, query, headers, body)


def _deny(start_response: Any, why: str) -> Iterable[bytes]:
    body = _DENIED.format(why).encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body))), _REGION]
    start_response("403 Forbidden", headers)
    return [body]


class _QuietHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None:
        """Keep quiet: the lines of an access log have keys."""


@contextmanager
def guarded_s3(guard: Guard) -> Iterator[str]:
    """Yield the endpoint of a server before this process's moto."""
    server = make_server("127.0.0.1", 0, _Application(guard), threaded=True, request_handler=_QuietHandler)
    with running(server):
        yield f"http://127.0.0.1:{server.port}"
