"""Airflow's own backfill over past data intervals: every arrival once, in the run of its own day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock.run import run_key
from tests.dicom_files import ct
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]

DAYS = ("2026-10-05", "2026-10-06", "2026-10-07")


def test_three_past_days_two_at_a_time(machine: Machine) -> None:
    for number, day in enumerate(DAYS):
        files = {f"{n}.dcm": ct(500 + number, 1, n) for n in range(number + 1)}
        machine.put(files, f"dated/{day.replace('-', '/')}/")
    machine.put({"1.dcm": ct(600)}, "dated/2026/10/09/")  # a day that nobody asks for
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag("dated"))

    command = machine.airflow(
        "backfill",
        "create",
        "--dag-id",
        "dated",
        "--from-date",
        DAYS[0],
        "--to-date",
        DAYS[-1],
        "--max-active-runs",
        "2",
    )
    assert command.returncode == 0, command.stdout + command.stderr

    with machine.api() as api:
        api.unpause("dated")

        def finished() -> list[dict[str, str]]:
            runs = [
                r for r in api._call("GET", "/api/v2/dags/dated/dagRuns")["dag_runs"] if r["run_type"] == "backfill"
            ]
            done = [run for run in runs if run["state"] in {"success", "failed"}]
            return done if len(done) == len(DAYS) else []

        runs = until("the backfill ends", finished, 400)
    assert {run["state"] for run in runs} == {"success"}
    arrivals = {}
    for run in runs:
        report = machine.report("dated", run_key("dated", run["dag_run_id"]))
        assert report["balanced"]
        arrivals[report["window"][0][:10]] = report["arrivals"]
    assert arrivals == {day: number + 1 for number, day in enumerate(DAYS)}
