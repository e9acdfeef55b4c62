"""An HTTP endpoint on loopback that notes what it gets and answers as it is told; it can die and come back."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Endpoint:
    """The endpoint, and what happened there.

    Parameters
    ----------
    status, headers, body
        Of every answer.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    silent: bool = False  # takes a request and never answers
    cut: bool = False  # takes a request and hangs up
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._over = Event()
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def die(self) -> None:
        """Listen no more."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: Any) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.requests.append((dict(request.headers), body))
        if self.silent:
            self._over.wait(30)
        if self.silent or self.cut:
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        request.send_response(self.status)
        for name, value in ({"Content-Length": str(len(self.body))} | self.headers).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(self.body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone."""


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            endpoint.answer(self)

        def do_PUT(self) -> None:
            endpoint.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def webhook_endpoint() -> Iterator[Endpoint]:
    """Yield an endpoint that listens on a free port."""
    endpoint = Endpoint()
    endpoint.start()
    try:
        yield endpoint
    finally:
        endpoint.die()
