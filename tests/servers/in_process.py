"""Requests of boto3 to this process's moto without connections, which took a third of the stages' tests."""

from __future__ import annotations

import io
from email.message import Message
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.awsrequest import AWSResponse
from botocore.httpsession import URLLib3Session
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from urllib3 import HTTPHeaderDict, HTTPResponse

if TYPE_CHECKING:
    import pytest
    from botocore.awsrequest import AWSPreparedRequest

_LISTENER = SimpleNamespace(multithread=True, multiprocess=False, server_address=("127.0.0.1", 80), ssl_context=None)


@cache
def _application() -> Any:
    return DomainDispatcherApplication(create_backend_app)


def ask_in_process(client: Any) -> Any:
    """Have a boto3 client call moto's WSGI application instead of its server; both keep the same buckets."""
    client._endpoint.http_session = _Session()
    return client


def ask_all_in_process(endpoint: str, patch: pytest.MonkeyPatch) -> None:
    """Have every boto3 client call moto's WSGI application where it would call moto's server at this endpoint."""
    send, session = URLLib3Session.send, _Session()

    def answer(connected: URLLib3Session, request: AWSPreparedRequest) -> AWSResponse:
        return session.send(request) if request.url.startswith(f"{endpoint}/") else send(connected, request)

    patch.setattr(URLLib3Session, "send", answer)


class _Session:
    """Stands in for `botocore.httpsession.URLLib3Session`."""

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        answered: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            answered.update(status=int(status.split(maxsplit=1)[0]), headers=HTTPHeaderDict(headers))

        body = b"".join(_application()(_environ(request), start))
        raw = HTTPResponse(
            io.BytesIO(body), preload_content=False, decode_content=False, request_method=request.method, **answered
        )
        answer = AWSResponse(request.url, raw.status, raw.headers, raw)
        if not request.stream_output:
            _ = answer.content
        return answer

    def close(self) -> None:
        """Close nothing: the client has not opened a connection."""


def _environ(request: AWSPreparedRequest) -> dict[str, Any]:
    """Return what moto's server would make of the request."""
    content = request.body
    body = content.read() if hasattr(content, "read") else content or b""
    body = body.encode() if isinstance(body, str) else body  # a form's, of services such as SNS
    url = urlsplit(request.url)
    handler = MotoRequestHandler.__new__(MotoRequestHandler)
    handler.server = _LISTENER  # type: ignore[assignment]
    handler.client_address = ("127.0.0.1", 0)
    handler.connection = None  # type: ignore[assignment]
    handler.rfile = io.BytesIO(body)
    handler.command, handler.request_version = request.method, "HTTP/1.1"
    handler.path = f"{url.path}?{url.query}" if url.query else url.path
    handler.headers = Message()
    headers = {"Host": url.netloc, **request.headers, "Content-Length": str(len(body))}
    headers.pop("Transfer-Encoding", None)
    for name, value in headers.items():
        handler.headers[name] = value.decode() if isinstance(value, bytes) else str(value)
    return handler.make_environ()
