"""A TCP proxy on loopback that cuts its clients off, at once or in mid-work, until it is told to let them through."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_RESET = struct.pack("ii", 1, 0)  # linger for no time: the client sees a reset
_PIECE = 65_536


class Proxy:
    """Passes bytes on between clients and one server.

    Attributes
    ----------
    target
        The server's address; may be set later, and be a path of a Unix socket.
    passed
        Pieces of requests that went through.
    cuts
        How often a client was cut off since `cut_after` or `cut_at`.
    """

    def __init__(self) -> None:
        self.target: tuple[str, int] | str = ""
        self.passed = 0
        self.cuts = 0
        self._left: int | None = None  # pieces of requests that still pass; None for all
        self._word = b""  # of the first request that does not pass, in lower case
        self._lock = Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        Thread(target=self._serve, daemon=True).start()

    def cut_after(self, pieces: int) -> None:
        """Let so many pieces of requests through, then reset every connection, old and new."""
        with self._lock:
            self._left, self.cuts = pieces, 0
        if not pieces:
            self._reset()

    def cut_at(self, word: str) -> None:
        """Let requests through up to the first that has this word in it, in whatever case, then cut as above."""
        with self._lock:
            self._word, self.cuts = word.lower().encode(), 0

    def restore(self) -> None:
        """Let everything through."""
        with self._lock:
            self._left, self._word = None, b""

    def close(self) -> None:
        """End it."""
        self._listener.close()
        self._reset()

    def _passes(self, piece: bytes) -> bool:
        with self._lock:
            if self._word and self._word in piece.lower():
                self._left = 0
            if self._left is not None:
                self._left -= 1
            passes = self._left is None or self._left >= 0
            self.passed += passes
            self.cuts += not passes
            return passes

    def _reset(self) -> None:
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            with suppress(OSError):  # it has ended meanwhile
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                Thread(target=self._converse, args=(client,), daemon=True).start()

    def _converse(self, client: socket.socket) -> None:
        family = socket.AF_UNIX if isinstance(self.target, str) else socket.AF_INET
        server = socket.socket(family)
        with self._lock:
            self._open |= {client, server}
        with suppress(OSError):  # either side has hung up, or was cut off
            server.connect(self.target)
            Thread(target=self._answer, args=(server, client), daemon=True).start()
            while piece := client.recv(_PIECE):
                if not self._passes(piece):
                    self._reset()
                    return
                server.sendall(piece)
        self._end(client, server)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while piece := server.recv(_PIECE):
                client.sendall(piece)
        self._end(client, server)

    def _end(self, *connections: socket.socket) -> None:
        with self._lock:
            self._open -= set(connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@contextmanager
def proxies(number: int) -> Iterator[list[Proxy]]:
    """Yield proxies without a target."""
    made = [Proxy() for _ in range(number)]
    try:
        yield made
    finally:
        for proxy in made:
            proxy.close()
