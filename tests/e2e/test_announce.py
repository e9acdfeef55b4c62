"""An asset route on the real scheduler: one run of the example DAG per released study, and none for a held one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock.run import run_key
from tests.dicom_files import ct
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]

DAG, DOWNSTREAM = "announces", "example_study"
RELEASED, HELD = (901, 902, 903), 904


def deliver(machine: Machine) -> None:
    machine.put({f"{study}-{n}.dcm": ct(study, 1, n) for study in RELEASED for n in (1, 2)}, f"{DAG}/")
    machine.put({"held-1.dcm": ct(HELD, 1, 1), "held-2.dcm": ct(HELD, 1, 2)[:-50]}, f"{DAG}/")


def run_of(machine: Machine) -> str:
    """Take in what lies there; return the id of the run."""
    with machine.api() as api:
        run = api.trigger(DAG, {})
        until("the run ends", lambda: api.run_state(DAG, run) == "success")
    return run


def partitions(machine: Machine) -> list[str] | None:
    """Return the partitions of the downstream DAG's runs, None while one of them goes on."""
    with machine.api() as api:
        runs = api.runs(DOWNSTREAM)
    ended = all(run["state"] == "success" for run in runs)
    return sorted(run["partition_key"] for run in runs) if runs and ended else None


def test_each_released_study_has_one_downstream_run(machine: Machine) -> None:
    deliver(machine)
    with machine.api() as api:
        for dag in (DAG, DOWNSTREAM):
            until("the DAG is there", lambda dag=dag: api.dag(dag))
            api.unpause(dag)
    run = run_of(machine)
    assert machine.report(DAG, run_key(DAG, run))["studies"]["released"] == len(RELEASED)
    until("a run per study", lambda: len(partitions(machine) or ()) == len(RELEASED))
    assert len(set(partitions(machine) or ())) == len(RELEASED)


def test_a_run_that_brings_nothing_tells_nothing(machine: Machine) -> None:
    run = run_of(machine)
    with machine.api() as api:
        (announce,) = [task for task in api.task_instances(DAG, run) if task["task_id"] == "announce"]
    assert announce["state"] == "skipped"
