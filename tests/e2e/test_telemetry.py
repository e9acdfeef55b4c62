"""Metrics of real runs, by StatsD and by OpenTelemetry: they are the report's numbers, and alerts fire and clear."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from airlock.run import run_key
from airlock_local.settings import ROOT
from tests.dicom_files import ct
from tests.e2e.conftest import CANARY, Machine, free_ports, imaging_pipeline, stopped_after, until
from tests.servers.collector import otlp_collector
from tests.servers.prometheus import prometheus
from tests.servers.statsd import statsd_server

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(900)]

RULES = ROOT / "deploy/dashboards/alerts.yaml"
NAME = "metered"


def stack(folder: Path, metrics: str) -> Any:
    """Return the context of a stack that sends its metrics to an address."""
    (folder / "pipelines").mkdir()
    imaging_pipeline(folder / "pipelines", NAME, "1", healthlake=None, receive={"quiet_seconds": 0})
    return stopped_after(folder, *free_ports(3), AIRLOCK_METRICS=metrics)


def delivered(folder: Path, *, broken: int) -> Path:
    """Write a delivery of a canary patient with twenty files, of which some are cut off."""
    for number in range(20):
        body = ct(broken + 1, 1, number + 1, **CANARY)
        (folder / f"{number}.dcm").write_bytes(body[:-100] if number < broken else body)
    return folder


def imported(machine: Machine, folder: Path) -> dict[str, Any]:
    """Import a delivery and return the report of its run."""
    done = machine.make_run(folder, NAME)
    assert done.returncode == 0, done.stdout + done.stderr
    with machine.api() as api:
        newest = max(api.runs(NAME), key=lambda run: str(run["run_after"]))
    return machine.report(NAME, run_key(NAME, str(newest["dag_run_id"])))


def nonzero(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value}


def counted(report: dict[str, Any]) -> dict[str, float]:
    return {code: float(one["arrivals"]) for code, one in report["reasons"].items()}


def test_statsd_is_told_the_numbers_of_the_report(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with statsd_server() as server, stack(tmp_path, f"statsd://127.0.0.1:{server.port}") as machine:
        report = imported(machine, delivered(tmp_path_factory.mktemp("delivery"), broken=2))
        told = server.kept
        dispositions = told.tagged("airflow.airlock.run.dispositions", "disposition", pipeline=NAME)
        assert nonzero(dispositions) == report["dispositions"]
        assert nonzero(told.tagged("airflow.airlock.run.reasons", "reason", pipeline=NAME)) == counted(report)
        for name in ("arrivals", "bytes", "balanced"):
            assert told.tagged(f"airflow.airlock.run.{name}", "pipeline")[NAME] == report[name]
        assert told.tagged("airflow.airlock.run.requests", "pipeline")[NAME] == report["reading"]["requests"]
        stages = {dict(tags)["stage"] for name, tags in told.timings if name == "airflow.airlock.stage.duration"}
        assert stages >= {"buffer", "parse", "validate", "normalize", "stage", "audit", "route"}
        (job,) = (dict(tags) for name, tags in told.timings if name == "airflow.airlock.job.duration")
        assert job == {"pipeline": NAME, "status": "COMPLETED"}
        assert told.tagged("airflow.airlock.held.subjects", "pipeline")[NAME] == report["studies"]["held"]
        assert told.tagged("airflow.airlock.jobs.open", "pipeline")[NAME] == 0
        for canary in CANARY.values():
            assert not any(canary in line for line in told.lines)


def test_opentelemetry_is_told_the_same_and_an_alert_fires_and_clears(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        otlp_collector() as collector,
        prometheus(tmp_path, RULES, collector.address) as asked,
        stack(tmp_path_factory.mktemp("stack"), f"{collector.url}/v1/metrics") as machine,
    ):
        report = imported(machine, delivered(tmp_path_factory.mktemp("bad"), broken=2))
        until("the alert fires", lambda: "AirlockManyRejected" in asked.firing())
        kept = f'{{pipeline="{NAME}"}}'
        dispositions = asked.by(f"airflow_airlock_run_dispositions{kept}", "disposition")
        assert nonzero(dispositions) == report["dispositions"]
        assert nonzero(asked.by(f"airflow_airlock_run_reasons{kept}", "reason")) == counted(report)
        (balanced,) = asked.by(f"airflow_airlock_run_balanced{kept}", "pipeline").values()
        assert balanced == 1
        assert asked.by(f"airflow_airlock_held_subjects{kept}", "pipeline")[NAME] == report["studies"]["held"]
        imported(machine, delivered(tmp_path_factory.mktemp("good"), broken=0))
        until("the alert clears", lambda: "AirlockManyRejected" not in asked.firing())
        assert asked.firing() == set()
        for canary in CANARY.values():
            assert not any(canary.encode() in body for body in collector.bodies)


def test_the_rules_are_valid() -> None:
    subprocess.run(["promtool", "check", "rules", str(RULES)], check=True, capture_output=True)


def test_the_rules_fire_and_clear_as_time_goes_by() -> None:
    cases = ROOT / "tests/e2e/alerts_over_time.yaml"
    tried = subprocess.run(["promtool", "test", "rules", str(cases)], check=False, capture_output=True, text=True)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_prometheus_can_read_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads((RULES.parent / "airlock.json").read_text())["panels"]
    expressions = [target["expr"].replace("$pipeline", ".*") for panel in panels for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions)]
    (tmp_path / "panels.yaml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", "panels.yaml"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert f"{len(panels)} rules found" in checked.stdout
