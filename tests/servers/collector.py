"""An OpenTelemetry collector on loopback: it takes OTLP over HTTP, and a Prometheus scrapes what it has.

Debian's Prometheus is built without its own receiver of OTLP.
"""

from __future__ import annotations

import gzip
import re
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from tests.servers.serving import QuietHandler, running

if TYPE_CHECKING:
    from collections.abc import Iterator

Series = tuple[str, tuple[tuple[str, str], ...]]  # a name and its labels, as Prometheus spells them


class Collector(ThreadingHTTPServer):
    """The server, the last value of each gauge and counter, and all that it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.values: dict[Series, float] = {}
        self.bodies: list[bytes] = []
        self.lock = Lock()

    @property
    def address(self) -> str:
        """Host and port, for Prometheus."""
        return self.url.removeprefix("http://")

    def take(self, body: bytes) -> None:
        """Keep the values of one export."""
        sent = ExportMetricsServiceRequest.FromString(body)
        with self.lock:
            self.bodies.append(body)
            for resource in sent.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        self._keep(metric)

    def _keep(self, metric: Any) -> None:
        for point in (*metric.gauge.data_points, *metric.sum.data_points):
            labels = tuple(sorted((pair.key, pair.value.string_value) for pair in point.attributes))
            value = point.as_double if point.HasField("as_double") else float(point.as_int)
            self.values[re.sub(r"\W", "_", metric.name), labels] = value

    def page(self) -> str:
        """Return the values in Prometheus's text format."""
        with self.lock:
            lines = [f"{name}{{{_spell(labels)}}} {value}" for (name, labels), value in sorted(self.values.items())]
        return "\n".join([*lines, ""])


def _spell(labels: tuple[tuple[str, str], ...]) -> str:
    return ",".join(f'{key}="{text}"' for key, text in labels)


class _Request(QuietHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        unpacked = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        cast("Collector", self.server).take(unpacked)
        content = ExportMetricsServiceResponse().SerializeToString()
        self.answer(200, content, {"Content-Type": "application/x-protobuf"})

    def do_GET(self) -> None:
        self.answer(200, cast("Collector", self.server).page(), {"Content-Type": "text/plain; version=0.0.4"})


@contextmanager
def otlp_collector() -> Iterator[Collector]:
    """Yield a collector on a free port."""
    with running(Collector()) as server:
        yield server
