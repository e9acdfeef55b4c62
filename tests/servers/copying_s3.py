"""An S3 server on loopback that makes copies, and goes wrong as a test wants it to: CopyObject with If-Match."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    Fault = Callable[["Handler"], None]  # answers in place of the server

_RESULT = "<CopyObjectResult><ETag>&quot;{}&quot;</ETag></CopyObjectResult>"
_ERROR = "<Error><Code>{}</Code><Message>no</Message><Key>{}</Key></Error>"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/([\w-]+)/(\w+)/aws4_request, SignedHeaders=([\w;-]+), Signature=(\w+)"
)
_RESET = struct.pack("ii", 1, 0)  # linger for no time: the client sees a reset


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


class Handler(BaseHTTPRequestHandler):
    """Answers CopyObject."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
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
        if not self._is_signed():
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

    def _is_signed(self) -> bool:
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

    def answer(self, status: int, body: str) -> None:
        """Answer whole."""
        self.begin(status, len(body.encode()))
        self.wfile.write(body.encode())

    def begin(self, status: int, length: int) -> None:
        """Send everything before the body."""
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # connections come all at once

    def handle_error(self, *_: object) -> None:
        """Keep quiet: a client may hang up at any time."""


def refusal(status: int, code: str) -> Fault:
    """Answer an S3 error."""
    return lambda handler: handler.refuse(status, code)


def reset(handler: Handler) -> None:
    """Break the connection off, without the copy."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    handler.close_connection = True
    handler.connection.close()


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
    server = _Server(("127.0.0.1", 0), type("Handler", (Handler,), {"s3": s3}))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    s3.endpoint = f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
