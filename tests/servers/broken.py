"""Servers on loopback that answer wrongly whatever they are asked, or never."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Event
from typing import TYPE_CHECKING

from tests.servers.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def broken_server(answer: bytes | None) -> Iterator[str]:
    """Yield the endpoint of a server that answers each request with these bytes and hangs up; None: it never does."""
    over = Event()

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            if answer is None:
                over.wait()
            else:
                self.request.sendall(answer)

    server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with running(server):
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            over.set()


@contextmanager
def full_server() -> Iterator[str]:
    """Yield the endpoint of a server whose queue of connections is full, so that no further one is made."""
    with ExitStack() as kept:
        server = kept.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = kept.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
