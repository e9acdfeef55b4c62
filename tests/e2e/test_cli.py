"""Airlock's own command line on the real scheduler, as make cli calls it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from airlock.records import study_key
from airlock_local.settings import ROOT
from tests.dicom_files import ct, study_uid
from tests.documented_commands import ON_THE_STACK
from tests.e2e.conftest import CANARY, until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def cli(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airlock_local", "cli", *arguments]
    return subprocess.run(
        command, check=False, env=machine.environment, cwd=ROOT, capture_output=True, text=True, timeout=200
    )


def documented(command: str) -> list[str]:
    """Return a documented command's words, with a UID, a pipeline and a prefix that are there."""
    assert command in ON_THE_STACK
    for name, here in {"UID": study_uid(9), "nightly": "kills", "archive/2026/": "kills/cli/"}.items():
        command = command.replace(name, here)
    return shlex.split(command)


@pytest.fixture(scope="module", autouse=True)
def switched_on(machine: Machine, first_run: subprocess.CompletedProcess[str]) -> None:
    """The pipeline kills, which has no FHIR and waits for nothing, starts runs."""
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag("kills"))
        api.unpause("kills")


def test_a_run_is_started_followed_and_asked_about(machine: Machine) -> None:
    files = {f"cli/{n}.dcm": ct(9, 1, n, **CANARY) for n in (1, 2)}
    files["cli/cut.dcm"] = ct(9, 1, 3, **CANARY)[:-100]
    machine.put(files, "kills/")

    planned = cli(machine, "plan", "kills", "--prefix", "kills/cli/", "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert (plan["schema"], plan["arrivals"], plan["batches"]["files"]) == ("airlock.plan/1", 3, 2)

    started = cli(machine, *documented("airlock run nightly --prefix archive/2026/")[1:], "--json")
    assert started.returncode == 0, started.stderr
    assert "audit" in started.stderr, "its stages are told while they go on"
    run = json.loads(started.stdout)
    assert run["state"] == "success"
    assert run["report"]["dispositions"] == {"held": 2, "quarantined": 1}

    report = cli(machine, "report", "kills")
    assert report.returncode == 0, report.stderr
    assert run["run_key"] in report.stdout

    where = documented("airlock where UID")[1:]
    found = json.loads(cli(machine, *where, "--json").stdout)
    [cut] = [row for row in found["arrivals"] if row["key"].endswith("cut.dcm")]
    assert (cut["disposition"], cut["reason"], cut["run_id"]) == ("quarantined", "truncated", run["run_id"])
    [gate] = found["gates"]
    held = json.loads(cli(machine, *documented("airlock held nightly")[1:], "--json").stdout)["held"]
    assert study_key(gate["subject"]) in {row["subject_key"] for row in held}
    assert not [text for text in CANARY.values() if text in started.stdout + started.stderr + report.stdout]


@pytest.mark.parametrize("command", sorted(one for one in ON_THE_STACK if one.startswith(("make ", "./"))))
def test_a_documented_command_of_the_local_stack_runs(machine: Machine, command: str) -> None:
    result = subprocess.run(
        documented(command), check=False, env=machine.environment, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    assert "kills" in result.stdout


NO_TIME = ("--window-start", "2026-11-24T00:00:00Z", "--window-end", "2026-11-24T00:00:00Z")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("run", "no-such-pipeline"), 2, "Airflow does not know the pipeline 'no-such-pipeline'"),
        (("run", "kills", *NO_TIME), 1, "window_start must be before window_end"),
    ],
)
def test_what_airflow_or_the_run_refuses_is_told(
    machine: Machine, arguments: tuple[str, ...], status: int, told: str
) -> None:
    result = cli(machine, *arguments)
    assert result.returncode == status, result.stderr
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_a_paused_pipeline_starts_nothing(machine: Machine) -> None:
    with machine.api() as api:
        api._call("PATCH", "/api/v2/dags/kills", json={"is_paused": True})
        result = cli(machine, "run", "kills", "--no-wait")
        runs = len(api.unfinished_runs("kills"))
        api.unpause("kills")
    assert (result.returncode, runs) == (2, 0)
    assert "airflow dags unpause kills" in result.stderr
