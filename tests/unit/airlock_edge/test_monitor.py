"""The metrics of the edge are served to this machine only; tests of the alarms are beside those of the spool."""

from __future__ import annotations

from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from airlock_edge.metrics import Metrics
from airlock_edge.monitor import MetricsServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[MetricsServer]:
    metrics = Metrics()
    metrics.count("received_objects_total", ae_title="CT1")
    with MetricsServer(metrics, 0) as served:
        yield served


def ask(server: MetricsServer, host: str) -> tuple[int, str]:
    """Return the status and the body of an answer to a request that names a host."""
    connection = HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/metrics", headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9187"])
def test_prometheus_reads_the_metrics(server: MetricsServer, host: str) -> None:
    status, page = ask(server, host)
    assert status == 200
    assert 'airlock_edge_received_objects_total{ae_title="CT1"} 1' in page


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::1", ""])
def test_a_web_page_of_another_host_reads_nothing(server: MetricsServer, host: str) -> None:
    status, page = ask(server, host)
    assert status == 403
    assert "CT1" not in page
