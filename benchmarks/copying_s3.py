"""A very light S3 that accepts copies: every CopyObject succeeds, after a delay.

The delay is lognormal, sigma 0.25. It checks no signature and keeps no object. ``python -m benchmarks.copying_s3 DELAY
[CHAIN]`` takes the median delay in seconds and, for TLS, the file with a certificate and its key; it prints its address
and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import math
import random
import ssl
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SIGMA = 0.25
_END = b"\r\n\r\n"
_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<CopyObjectResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<LastModified>2026-11-24T02:00:00.000Z</LastModified><ETag>&quot;" + b"e" * 32 + b"&quot;</ETag>"
    b"</CopyObjectResult>"
)
_ANSWER = (  # with the headers of S3
    b"HTTP/1.1 200 OK\r\nx-amz-id-2: eftixk72aD6Ap51TnqcoF8eFidJG9Z/2mkiDFu8yU9AS1ed4OpIszj7UDNEHGran\r\n"
    b"x-amz-request-id: 318BC8BC148832E5\r\nDate: Tue, 24 Nov 2026 02:00:00 GMT\r\n"
    b"x-amz-server-side-encryption: AES256\r\nContent-Type: application/xml\r\n"
    b"Content-Length: %d\r\nServer: AmazonS3\r\n\r\n%b" % (len(_BODY), _BODY)
)


class _Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, delay: float, chance: random.Random) -> None:
        self._delay = delay
        self._chance = chance
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        *requests, self._unread = (self._unread + data).split(_END)  # copies have no body
        for _ in requests:
            wait = self._delay * math.exp(self._chance.gauss(0, _SIGMA))
            asyncio.get_running_loop().call_later(wait, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)


@contextmanager
def copying_s3(delay: float, chain: Path | None = None) -> Iterator[str]:
    """Serve from a process of its own; yield the endpoint.

    Parameters
    ----------
    delay
        The median, in seconds.
    chain
        The file with the server's certificate and key, for TLS.
    """
    command = [sys.executable, "-m", "benchmarks.copying_s3", str(delay), *([str(chain)] if chain else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603  # ourselves
        try:
            assert server.stdout is not None  # noqa: S101  # for mypy: it is a pipe
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


async def main(delay: float, chain: str | None) -> None:
    """Serve until ended."""
    context = None
    if chain is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
    chance = random.Random(1)  # noqa: S311  # the same delays in each run
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(delay, chance), "127.0.0.1", 0, backlog=1024, ssl=context
    )
    sys.stdout.write(f"{'https' if context else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(float(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
