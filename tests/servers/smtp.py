"""A mail server on loopback that takes every message and keeps it: as much of RFC 5321 as smtplib speaks."""

from __future__ import annotations

from contextlib import contextmanager
from email import message_from_bytes, policy
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, cast

from tests.servers.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage


class MailServer(ThreadingTCPServer):
    """The server, and the messages that it took."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Dialogue)
        self.port: int = self.server_address[1]
        self.messages: list[EmailMessage] = []


class _Dialogue(StreamRequestHandler):
    def handle(self) -> None:
        self._say("220 ready")
        for line in self.rfile:
            word = line.split()[0].upper() if line.split() else b""
            if word == b"DATA":
                self._say("354 go on")
                self._keep()
            self._say("221 bye" if word == b"QUIT" else "250 OK")
            if word == b"QUIT":
                return

    def _keep(self) -> None:
        lines = iter(self.rfile.readline, b".\r\n")
        message = message_from_bytes(b"".join(lines), policy=policy.default)
        cast("MailServer", self.server).messages.append(cast("EmailMessage", message))

    def _say(self, reply: str) -> None:
        self.wfile.write(f"{reply}\r\n".encode())


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """Yield a server on a free port."""
    with running(MailServer()) as server:
        yield server
