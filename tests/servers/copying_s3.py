"""An S3 server on loopback that makes copies, and goes wrong as a test wants it to: CopyObject with If-Match."""

from __future__ import annotations

import re
import threading
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials

from airlock.storage.s3 import S3
from tests.servers.serving import QuietHandler, serving

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    Fault = Callable[["Handler"], None]  # answers in place of the server

_RESULT = "<CopyObjectResult><ETag>&quot;{}&quot;</ETag></CopyObjectResult>"
_ERROR = "<Error><Code>{}</Code><Message>no</Message><Key>{}</Key></Error>"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/([\w-]+)/(\w+)/aws4_request, SignedHeaders=([\w;-]+), Signature=(\w+)"
)


class CopyingS3:
    """The server's state.

    Attributes
    ----------
    etags
        The objects: their etags without quotes, by bucket and key, as ``archive/in/a``.
    copies
        How often each copy was made, by bucket and key.
    requests
        The headers of each request, by their names in lower case, and its path as ``path``.
    fault
        Called with the number of each request from 0: what goes wrong with it; None for nothing.
    secrets
        The secret key of each access key that may copy.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.etags: dict[str, str] = {}
        self.copies: Counter[str] = Counter()
        self.requests: list[dict[str, str]] = []
        self.fault: Callable[[int], Fault | None] = lambda _number: None
        self.secrets = {"testing": "testing"}
        self.lock = threading.Lock()


class Handler(QuietHandler):
    """Answers CopyObject."""

    s3: CopyingS3

    def do_PUT(self) -> None:
        with self.s3.lock:
            number = len(self.s3.requests)
            self.s3.requests.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
        fault = self.s3.fault(number)
        if fault is not None:
            return fault(self)
        if code := self.find_refusal():
            return self.refuse(*code)
        return self.answer(200, self.make())

    def find_refusal(self) -> tuple[int, str] | None:
        """Return the status and code with which the request is refused, if it is."""
        if not self.is_signed():
            return 403, "SignatureDoesNotMatch"
        etag = self.s3.etags.get(unquote(self.headers["x-amz-copy-source"]))
        if etag is None:
            return 404, "NoSuchKey"
        return None if self.headers["x-amz-copy-source-if-match"] == etag else (412, "PreconditionFailed")

    def make(self) -> str:
        """Make the copy and return the answer's body."""
        target = unquote(self.path).removeprefix("/")
        with self.s3.lock:
            self.s3.copies[target] += 1
            etag = self.s3.etags[target] = self.s3.etags[unquote(self.headers["x-amz-copy-source"])]
        return _RESULT.format(etag)

    def is_signed(self) -> bool:
        """Return whether botocore would sign what has arrived in the same way."""
        found = _AUTHORIZATION.fullmatch(self.headers["Authorization"])
        if found is None or found[1] not in self.s3.secrets:
            return False
        names = found[4].split(";")
        url = f"{self.s3.endpoint}{self.path}"
        request = AWSRequest("PUT", url, headers={name: self.headers[name] for name in names})
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        signer = S3SigV4Auth(ReadOnlyCredentials(found[1], self.s3.secrets[found[1]], None, None), found[3], found[2])
        canonical = signer.canonical_request(request)
        return bool(signer.signature(signer.string_to_sign(request, canonical), request) == found[5])

    def refuse(self, status: int, code: str) -> None:
        """Answer an error, as S3 does: the key is in it."""
        self.answer(status, _ERROR.format(code, self.path))


def refusal(status: int, code: str) -> Fault:
    """Answer an S3 error."""
    return lambda handler: handler.refuse(status, code)


def reset(handler: Handler) -> None:
    """Break the connection off, without the copy."""
    handler.reset()


def reset_once_made(handler: Handler) -> None:
    """Make the copy and break the connection off, so that the client cannot know."""
    if handler.find_refusal() is None:
        handler.make()
    reset(handler)


def cut(handler: Handler) -> None:
    """Make the copy and answer half of what was announced."""
    body = handler.make() if handler.find_refusal() is None else _ERROR
    handler.begin(200, len(body))
    handler.wfile.write(body[: len(body) // 2].encode())
    handler.close_connection = True


def empty(handler: Handler) -> None:
    """Answer 200 without a body."""
    handler.answer(200, "")


def never(handler: Handler) -> None:
    """Keep the client waiting for an answer until it hangs up."""
    handler.rfile.read(1)
    handler.close_connection = True


@contextmanager
def copying_s3(context: ssl.SSLContext | None = None) -> Iterator[CopyingS3]:
    """Yield a server without objects, with TLS if there is a context for it."""
    s3 = CopyingS3()
    with serving(Handler, context, s3=s3) as s3.endpoint:
        yield s3


def connect_as_role(server: CopyingS3) -> tuple[S3, list[str]]:
    """Return an S3 with the credentials of a role, as Airflow's hook gives them, and the access keys they had so far.

    The first access key is ``testing``; each renewal gives another one that the server accepts.
    """
    keys = ["testing"]

    def renew() -> dict[str, str]:
        keys.append(f"renewed{len(keys)}")
        server.secrets[keys[-1]] = "renewed"
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        return {"access_key": keys[-1], "secret_key": "renewed", "token": "t", "expiry_time": later}

    session = boto3.Session(region_name="us-east-1")
    later = datetime.now(UTC) + timedelta(hours=1)
    session._session._credentials = RefreshableCredentials("testing", "testing", "t", later, renew, "test")
    return S3(session, session.client("s3", endpoint_url=server.endpoint)), keys


def is_signed_by(server: CopyingS3, number: int, access_key: str) -> bool:
    """Return whether a request names this access key."""
    return f"={access_key}/" in server.requests[number]["authorization"]
