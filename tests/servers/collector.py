"""An OpenTelemetry collector on loopback: it takes OTLP over HTTP, and a Prometheus scrapes what it has.

Debian's Prometheus is built without its own receiver of OTLP.
"""

from __future__ import annotations

import gzip
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

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


class _Request(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        unpacked = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        cast("Collector", self.server).take(unpacked)
        self._answer(ExportMetricsServiceResponse().SerializeToString(), "application/x-protobuf")

    def do_GET(self) -> None:
        self._answer(cast("Collector", self.server).page().encode(), "text/plain; version=0.0.4")

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no line for a request."""


@contextmanager
def otlp_collector() -> Iterator[Collector]:
    """Yield a collector on a free port."""
    with Collector() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
