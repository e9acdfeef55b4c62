"""A Prometheus on loopback (Debian's package) that scrapes a collector, evaluates alert rules and answers PromQL."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from tests.servers.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMETHEUS = shutil.which("prometheus")


@dataclass
class Prometheus:
    """The server."""

    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the vector of a PromQL query, now."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).raise_for_status()
        return list(answer.json()["data"]["result"])

    def by(self, query: str, label: str) -> dict[str, float]:
        """Return the values of a query by one of its labels."""
        return {one["metric"][label]: float(one["value"][1]) for one in self.ask(query) if label in one["metric"]}

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


@contextmanager
def prometheus(folder: Path, rules: Path, target: str) -> Iterator[Prometheus]:
    """Yield a server with these rules, which scrapes an address each second; its data are in this folder."""
    assert PROMETHEUS, "there is no prometheus: install Debian's package prometheus"
    settings = {
        "global": {"evaluation_interval": "1s", "scrape_interval": "1s", "scrape_timeout": "1s"},
        "rule_files": [str(rules.resolve())],
        "scrape_configs": [{"job_name": "airflow", "static_configs": [{"targets": [target]}]}],
    }
    config = folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump(settings))
    port = free_port()
    command = [PROMETHEUS, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    server = Prometheus(f"http://127.0.0.1:{port}")
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until("Prometheus is ready", lambda: _is_ready(server.url), 60)
            yield server
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
