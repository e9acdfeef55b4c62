"""kill -9 in mid-import: of a task's process, of the triggerer, of the scheduler. One job per batch, balanced books."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock.run import run_key
from tests.dicom_files import ct
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]


def start(machine: Machine, name: str) -> str:
    """Deliver two studies below a prefix of their own and start a run over them."""
    number = 100 + sum(map(ord, name))
    files = {f"{study}/{n}.dcm": ct(number * 10 + study, 1, n) for study in (1, 2) for n in (1, 2)}
    machine.put(files, f"kills/{name}/")
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag("kills"))
        api.unpause("kills")
        return api.trigger("kills", {"prefix": f"kills/{name}/"})


def states(machine: Machine, run: str, task_id: str) -> set[str | None]:
    with machine.api() as api:
        return {task["state"] for task in api.task_instances("kills", run) if task["task_id"] == task_id}


def ends_well(machine: Machine, run: str) -> None:
    with machine.api() as api:
        state = until("the run ends", lambda: (s := api.run_state("kills", run)) in {"success", "failed"} and s)
    key = run_key("kills", run)
    report = machine.report("kills", key)
    assert state == "success"
    assert report["balanced"]
    assert report["dispositions"] == {"released": 4}
    assert len(machine.jobs(key)) == 1


def test_task_process_killed_between_the_call_and_its_answer(machine: Machine) -> None:
    before = machine.calls("StartDICOMImportJob")
    machine.faults({"kind": "slow_responses", "operation": "StartDICOMImportJob", "seconds": 6, "times": 1})
    run = start(machine, "task")
    until("the call is on its way", lambda: machine.remaining_faults() == [0])
    assert machine.kill_task() >= 1
    ends_well(machine, run)
    assert machine.calls("StartDICOMImportJob") == before + 2  # asked twice, by one token


def test_triggerer_killed_while_it_waits_for_the_job(machine: Machine) -> None:
    machine.faults({"kind": "stuck_in_progress"})
    run = start(machine, "triggerer")
    until("import is deferred", lambda: states(machine, run, "import") == {"deferred"})
    machine.kill("triggerer")
    machine.restart()
    machine.faults()
    ends_well(machine, run)


def test_scheduler_killed_while_the_job_runs(machine: Machine) -> None:
    # A job that ended before the kill would have import queued by then: Airflow resets what a killed scheduler queued
    # when it next looks for orphans, five minutes later.
    machine.faults({"kind": "stuck_in_progress"})
    run = start(machine, "scheduler")
    until("import is deferred", lambda: states(machine, run, "import") == {"deferred"})
    machine.kill("scheduler")
    machine.restart()
    machine.faults()
    ends_well(machine, run)
