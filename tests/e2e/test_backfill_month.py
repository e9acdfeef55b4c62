"""Airflow's own backfill over thirty days: planned first, broken off, taken up again, every arrival once.

Airflow keeps its metadata in PostgreSQL here, as a deployment does: on SQLite nobody else writes while the runs of a
backfill are made, and the scheduler waits for some seconds only.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from airlock.run import run_key
from airlock.stages.plan import Plan
from tests.dicom_files import ct
from tests.e2e.conftest import free_ports, imaging_pipeline, stopped_after, until
from tests.servers.postgres import postgres_server, postgres_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import Machine

__all__ = ["postgres_server", "postgres_url"]  # fixtures
pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(3600)]

DAG = "month"
DAYS = [date(2026, 9, 1) + timedelta(number) for number in range(30)]
PLANNED = DAYS[:2]
BREAK_AFTER = 6  # runs that have ended in earnest
PATIENCE = 3000.0


@pytest.fixture
def machine(postgres_url: str, first_folder: Path, tmp_path: Path) -> Iterator[Machine]:
    """A stack of its own, after a newcomer's first make run."""
    (tmp_path / "pipelines").mkdir()
    nothing: dict[str, Any] = {"healthlake": None, "receive": {"quiet_seconds": 0}}
    imaging_pipeline(tmp_path / "pipelines", "first", "1", **nothing)
    schedule = {"cron": "0 0 * * *", "start_date": "2026-09-01", "max_active_runs": 2}
    imaging_pipeline(tmp_path / "pipelines", DAG, "4", source={"window": "key_date"}, schedule=schedule, **nothing)
    with stopped_after(tmp_path, *free_ports(3), AIRLOCK_METADATA_URL=postgres_url) as made:
        done = made.make_run(first_folder)
        assert done.returncode == 0, done.stdout + done.stderr
        yield made


def files_of(day: date) -> int:
    return day.day % 3 + 1


def deliver(machine: Machine, day: date) -> None:
    machine.put({f"{n}.dcm": ct(700 + day.day, 1, n) for n in range(files_of(day))}, f"{DAG}/{day:%Y/%m/%d}/")


def backfill(machine: Machine, days: list[date], reprocess: str, **conf: bool) -> None:
    """Do what a person types."""
    until("no other backfill goes on", lambda: not active(machine))  # Airflow notices its end after a while
    done = machine.airflow(
        *("backfill", "create", "--dag-id", DAG, "--from-date", str(days[0]), "--to-date", str(days[-1])),
        *("--max-active-runs", "2", "--reprocess-behavior", reprocess, "--dag-run-conf", json.dumps(conf)),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def active(machine: Machine) -> list[int]:
    """Return the backfills that go on."""
    with machine.api() as api:
        found = api._call("GET", f"/api/v2/backfills?dag_id={DAG}")["backfills"]
    return [backfill["id"] for backfill in found if not backfill["completed_at"]]


def cancel(machine: Machine) -> None:
    """Cancel the backfill that goes on."""
    (number,) = active(machine)
    with machine.api() as api:
        api._call("PUT", f"/api/v2/backfills/{number}/cancel")


def runs(machine: Machine) -> dict[date, dict[str, Any]]:
    """Return the backfill's DAG runs by the day of their interval."""
    with machine.api() as api:
        every = api._call("GET", f"/api/v2/dags/{DAG}/dagRuns?limit=100")["dag_runs"]
    found = [run for run in every if run["run_type"] == "backfill"]
    by_day = {datetime.fromisoformat(run["data_interval_start"]).date(): run for run in found}
    assert len(by_day) == len(found)
    return by_day


def ended(machine: Machine, days: list[date]) -> dict[date, dict[str, Any]] | None:
    found = runs(machine)
    return found if all(found.get(day, {}).get("state") in {"success", "failed"} for day in days) else None


def tasks(machine: Machine, run: dict[str, Any]) -> dict[str, str]:
    with machine.api() as api:
        path = f"/api/v2/dags/{DAG}/dagRuns/{run['dag_run_id']}/taskInstances".replace("+", "%2B")
        found = api._call("GET", path)["task_instances"]
    return {task["task_id"]: task["state"] for task in found}


def plan_of(machine: Machine, run: dict[str, Any]) -> Plan:
    key = f"runs/{DAG}/{run_key(DAG, run['dag_run_id'])}/plan/plan.json"
    return Plan.model_validate_json(
        machine.s3().get_object(Bucket="airlock-workspace", Key=key)["Body"].read(),
    )


def audited(machine: Machine, run: dict[str, Any]) -> bool:
    prefix = f"runs/{DAG}/{run_key(DAG, run['dag_run_id'])}/audit/report.json"
    return machine.s3().list_objects_v2(Bucket="airlock-workspace", Prefix=prefix)["KeyCount"] == 1


def break_off(machine: Machine) -> int:
    """Cancel the backfill when some runs have ended, and return how many have ended in earnest."""
    until("some runs have ended", lambda: _done(machine) >= BREAK_AFTER, PATIENCE)
    cancel(machine)
    until("what was running has ended", lambda: ended(machine, DAYS), PATIENCE)
    return _done(machine)


def _done(machine: Machine) -> int:
    return sum(run["state"] == "success" and audited(machine, run) for run in runs(machine).values())


def test_thirty_days_planned_broken_off_and_taken_up_again(machine: Machine) -> None:
    for day in DAYS:
        deliver(machine, day)
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(DAG))
        api.unpause(DAG)

    began = time.monotonic()
    backfill(machine, PLANNED, "none", plan_only=True)
    planned = until("the plans are made", lambda: ended(machine, PLANNED), PATIENCE)
    for day in PLANNED:
        assert planned[day]["state"] == "success"
        states = tasks(machine, planned[day])
        assert [states.pop(name) for name in ("receive", "buffer", "parse", "validate", "normalize")] == ["success"] * 5
        assert set(states.values()) == {"skipped"}
        plan = plan_of(machine, planned[day])
        assert (plan.arrivals, plan.batches.jobs, plan.studies) == (files_of(day), 1, 1)
        assert machine.jobs(run_key(DAG, planned[day]["dag_run_id"])) == []
    plans_took = time.monotonic() - began

    # A planned day has its DAG run: it is repeated in earnest, under the same run id and with another conf.
    began = time.monotonic()
    backfill(machine, DAYS, "completed", plan_only=False)
    before = break_off(machine)
    assert BREAK_AFTER <= before < len(DAYS)
    broken_off = runs(machine)
    backfill(machine, DAYS, "failed", plan_only=False)
    found = until("the backfill has ended", lambda: ended(machine, DAYS), PATIENCE)
    took = time.monotonic() - began

    assert sorted(found) == DAYS
    assert {run["state"] for run in found.values()} == {"success"}
    jobs = Counter[int]()
    for day, run in found.items():
        key = run_key(DAG, run["dag_run_id"])
        report = machine.report(DAG, key)
        assert report["balanced"]
        assert (report["window"][0][:10], report["arrivals"]) == (str(day), files_of(day))
        assert report["dispositions"] == {"released": files_of(day)}
        jobs[len(machine.jobs(key))] += 1
        if broken_off[day]["state"] == "success":  # it was not started again
            assert run["start_date"] == broken_off[day]["start_date"]
    assert jobs == {1: len(DAYS)}
    spans = sorted((run["start_date"], run["end_date"]) for run in found.values())
    together = sum(later[0] < earlier[1] for earlier, later in pairwise(spans))
    assert together
    print(  # noqa: T201  (the figures of the proof)
        f"{len(PLANNED)} plans in {plans_took:.0f} s; {len(DAYS)} days in {took:.0f} s, broken off after {before}; "
        f"{sum(map(files_of, DAYS))} arrivals, {sum(n * c for n, c in jobs.items())} jobs; "
        f"{together} runs began while another was active"
    )
