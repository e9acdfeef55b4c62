"""A StatsD server on loopback that keeps what it is told, with the tags that InfluxDB's spelling puts into the name."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from socketserver import DatagramRequestHandler, ThreadingUDPServer
from threading import Lock
from typing import TYPE_CHECKING, cast

from tests.servers.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator

Series = tuple[str, frozenset[tuple[str, str]]]  # a name and its tags


@dataclass
class Kept:
    """What the server was told: gauges by their last value, counters by their sum, timings one by one."""

    gauges: dict[Series, float] = field(default_factory=dict)
    counters: dict[Series, float] = field(default_factory=dict)
    timings: dict[Series, list[float]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def keep(self, line: str) -> None:
        """Keep one line: ``name,tag=value:number|kind``."""
        self.lines.append(line)
        named, _, measured = line.rpartition(":")
        name, *tags = named.split(",")
        series = name, frozenset(tuple(tag.split("=", 1)) for tag in tags)
        number, kind = measured.split("|")[:2]
        if kind == "g":
            self.gauges[series] = float(number)
        elif kind == "c":
            self.counters[series] = self.counters.get(series, 0) + float(number)
        else:
            self.timings.setdefault(series, []).append(float(number))

    def tagged(self, name: str, tag: str, **others: str) -> dict[str, float]:
        """Return the gauges of a name that have the other tags, by the value of one tag."""
        wanted = set(others.items())
        return {
            dict(tags)[tag]: value
            for (known, tags), value in self.gauges.items()
            if known == name and wanted <= tags and tag in dict(tags)
        }


class StatsdServer(ThreadingUDPServer):
    """The server, and what it was told."""

    daemon_threads = True
    max_packet_size = 65_535

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Datagram)
        self.port: int = self.server_address[1]
        self.kept = Kept()
        self.lock = Lock()


class _Datagram(DatagramRequestHandler):
    def handle(self) -> None:
        server = cast("StatsdServer", self.server)
        with server.lock:
            for line in self.rfile.read().decode().splitlines():
                server.kept.keep(line)


@contextmanager
def statsd_server() -> Iterator[StatsdServer]:
    """Yield a server on a free port."""
    with running(StatsdServer()) as server:
        yield server
