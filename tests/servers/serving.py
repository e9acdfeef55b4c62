"""What servers on loopback have in common here: a thread that serves, and quiet HTTP handlers that answer whole."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

Served = TypeVar("Served", bound=BaseServer)
_POLL_SECONDS = 0.01  # within which a server notices that it shall end
_RESET = struct.pack("ii", 1, 0)  # linger for no time: the client sees a reset


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open and logs nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def answer(self, status: int, body: bytes | str = b"", head: Mapping[str, str] | None = None) -> None:
        """Answer whole."""
        content = body.encode() if isinstance(body, str) else body
        self.begin(status, len(content), head)
        self.wfile.write(content)

    def begin(self, status: int, length: int, head: Mapping[str, str] | None = None) -> None:
        """Send everything before the body."""
        self.send_response(status)
        for name, value in (head or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def reset(self) -> None:
        """Break the connection off."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # connections come all at once

    def handle_error(self, *_: object) -> None:
        """Keep quiet: a client may hang up at any time."""


@contextmanager
def running(server: Served) -> Iterator[Served]:
    """Yield a server that serves in a thread until the block ends, and is closed then."""
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(handler: type[QuietHandler], context: ssl.SSLContext | None = None, **state: object) -> Iterator[str]:
    """Yield the endpoint of a server, with TLS if there is a context; its handlers have the state as attributes."""
    server = _Server(("127.0.0.1", 0), type(handler.__name__, (handler,), state))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with running(server):
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
