"""A server of somebody else's, on a port that the stack wants."""

from __future__ import annotations

import socketserver
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.servers.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator


class Foreign(socketserver.ThreadingTCPServer):
    """It answers everything with 200, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.port = self.server_address[1]
        self.asked: list[bytes] = []


class _Answer(socketserver.StreamRequestHandler):
    server: Foreign

    def handle(self) -> None:
        self.server.asked.append(self.rfile.readline())
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def foreign_server() -> Iterator[Foreign]:
    """Yield a server that listens on a free port of loopback."""
    with running(Foreign()) as listener:
        yield listener
