"""A proxy in front of an S3 server that counts requests and bytes, and delays first bytes as a distant S3 would.

It reads only as much HTTP as it needs to find the end of a request, so that it costs little. It accepts no requests
with a body; uploads go to the server itself. Each client connection has its own connection to the server, open as long.
The time to first byte is lognormal around its median and starts at the end of the request. The server works during that
time, so its own few milliseconds count only if they exceed the delay.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

from airlock_local.environment import inherited
from airlock_local.processes import Records, end_processes, launch
from benchmarks.seaweed import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NAME = "proxy"
_ROOT = Path(__file__).parents[1]
_SIGMA = 0.25  # of the logarithm of the time to first byte
_SEED = 7
_HELD = 1 << 18  # most bytes of a delayed response; beyond them the server waits
_END_OF_HEAD = b"\r\n\r\n"
_COUNTS = Struct("<QQQ")  # requests, bytes, connections
_SECONDS = Struct("<d")  # to first byte; behind the counts
_READY_WITHIN = 30.0


class Counts(NamedTuple):
    """The traffic since the proxy started."""

    requests: int
    bytes: int  # written to clients, response heads included
    connections: int

    def since(self, before: Counts) -> Counts:
        """Return the difference to an earlier count."""
        return Counts(*(now - then for now, then in zip(self, before, strict=True)))


class Dials:
    """The counters and the latency, in a small file that the proxy and its observers share.

    Parameters
    ----------
    path
        The file, which is created with zeros if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_COUNTS.size + _SECONDS.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _COUNTS.size + _SECONDS.size)

    def counts(self) -> Counts:
        """Return the counters."""
        return Counts(*_COUNTS.unpack_from(self._memory))

    @property
    def first_byte(self) -> float:
        """Median seconds from a request to its first byte."""
        return float(_SECONDS.unpack_from(self._memory, _COUNTS.size)[0])

    @first_byte.setter
    def first_byte(self, seconds: float) -> None:
        _SECONDS.pack_into(self._memory, _COUNTS.size, seconds)

    def write(self, counts: Counts) -> None:
        """Set the counters; only the proxy may do so."""
        _COUNTS.pack_into(self._memory, 0, *counts)


@dataclass(frozen=True)
class Proxy:
    """A running proxy.

    Parameters
    ----------
    endpoint
        The address for clients.
    pid
        The id of its process.
    dials
        The file of its counters and its latency.
    """

    endpoint: str
    pid: int
    dials: Path


@contextmanager
def proxy(upstream: str, folder: Path) -> Iterator[Proxy]:
    """Yield a proxy in front of a server, in a process of its own; it adds no latency until `Dials` sets one.

    Parameters
    ----------
    upstream
        The server's address, ``http://host:port``.
    folder
        The folder for its counters and its log.

    Raises
    ------
    RuntimeError
        If it does not answer within half a minute.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records, dials = Records(folder), folder / "dials"
    end_processes(list(records.read().values()))
    dials.unlink(missing_ok=True)
    Dials(dials)
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.proxy", upstream, str(port), str(dials.resolve())]
    running, _ = launch(argv, inherited(os.environ, account=False), _ROOT, folder / "proxy.log", patience=2)
    records.write(_NAME, running)
    try:
        asyncio.run(_wait_until_open(port, running.is_alive, running.log))
        yield Proxy(f"http://{HOST}:{port}", running.pid, dials)
    finally:
        end_processes([running])
        records.forget(_NAME)


async def _wait_until_open(port: int, alive: Callable[[], bool], log: str) -> None:
    try:
        async with asyncio.timeout(_READY_WITHIN):
            while alive():
                try:
                    _, writer = await asyncio.open_connection(HOST, port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                return
    except TimeoutError:
        pass
    raise RuntimeError(f"the proxy does not answer: see {log}")


class _Meter:
    """The state of all connections: the server's address, the counters and the latency."""

    def __init__(self, host: str, port: int, dials: Dials) -> None:
        self.host, self.port = host, port
        self._dials = dials
        self._requests = self._bytes = self._connections = 0
        self._chance = random.Random(_SEED)  # noqa: S311  (reproducible, not secret)

    def connected(self) -> None:
        self._connections += 1
        self._write()

    def asked(self, requests: int) -> float:
        """Count requests and return the seconds to the first byte of the last one."""
        self._requests += requests
        self._write()
        return self._dials.first_byte * self._chance.lognormvariate(0, _SIGMA)

    def wrote(self, size: int) -> None:
        self._bytes += size
        self._write()

    def _write(self) -> None:
        self._dials.write(Counts(self._requests, self._bytes, self._connections))


class _ServerSide(asyncio.Protocol):
    """The connection to the server; what it says goes to the client, in good time."""

    def __init__(self, client: _ClientSide) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.answer(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        self._client.hang_up()


class _ClientSide(asyncio.Protocol):
    """The connection of a client."""

    def __init__(self, meter: _Meter) -> None:
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._server: asyncio.Transport | None = None
        self._unsent = bytearray()  # what came before the server's connection was there
        self._head = b""  # the last bytes of a request whose end has not come yet
        self._held: list[bytes] = []
        self._held_size = 0
        self._moment: asyncio.TimerHandle | None = None  # until then the answer waits
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._meter.connected()
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        meter = self._meter
        try:
            server, _ = await self._loop.create_connection(lambda: _ServerSide(self), meter.host, meter.port)
        except OSError:
            self.hang_up()
            return
        if self._ended:  # the client has not waited
            server.close()
            return
        self._server = server
        if self._unsent:
            server.write(bytes(self._unsent))
            self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        self._await_moment(data)
        if self._server is None:
            self._unsent += data
        else:
            self._server.write(data)

    def _await_moment(self, data: bytes) -> None:
        """See whether a request ends here, and hold its answer back from now on."""
        seen = self._head + data
        ends = seen.count(_END_OF_HEAD)
        self._head = b"" if seen.endswith(_END_OF_HEAD) else seen[-len(_END_OF_HEAD) + 1 :]
        if ends:
            delay = self._meter.asked(ends)
            if delay > 0:
                self._moment = self._loop.call_later(delay, self._release)

    def answer(self, data: bytes) -> None:
        """Send the server's bytes to the client, or keep them until the delay ends."""
        if self._moment is None:
            self._write(data)
            return
        self._held.append(data)
        self._held_size += len(data)
        if self._held_size > _HELD and self._server:
            self._server.pause_reading()

    def _release(self) -> None:
        self._moment = None
        if self._held:
            self._write(b"".join(self._held))
            if self._held_size > _HELD:
                self.resume_writing()
            self._held.clear()
            self._held_size = 0

    def _write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._meter.wrote(len(data))
            self._transport.write(data)

    def pause_writing(self) -> None:
        if self._server:
            self._server.pause_reading()

    def resume_writing(self) -> None:
        if self._server and not self._server.is_closing():
            self._server.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's)
        self._ended = True
        if self._moment:
            self._moment.cancel()
        if self._server:
            self._server.close()

    def hang_up(self) -> None:
        """Close the client's connection after all bytes of the server are sent."""
        if self._moment and not self._ended:
            self._loop.call_at(self._moment.when(), self.hang_up)
        elif self._transport:
            self._transport.close()


async def _serve(upstream: str, port: int, dials: Dials) -> None:
    address = urlsplit(upstream)
    if address.hostname is None or address.port is None:
        raise SystemExit(f"{upstream!r} is no http://host:port")
    meter = _Meter(address.hostname, address.port, dials)
    server = await asyncio.get_running_loop().create_server(lambda: _ClientSide(meter), HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), Dials(Path(sys.argv[3]))))
