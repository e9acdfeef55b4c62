"""Outside the night window import waits deferred, without a worker, and goes on by itself when the window opens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airlock.run import run_key
from tests.dicom_files import ct
from tests.e2e.conftest import imaging_pipeline, until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.proof,
    pytest.mark.timeout(1200),
    pytest.mark.usefixtures("first_run"),
]

DAG = "evening"
AHEAD = timedelta(minutes=4)  # a run on a busy machine comes to import in less


def opening() -> datetime:
    return (datetime.now(UTC) + AHEAD).replace(second=0, microsecond=0) + timedelta(minutes=1)


def add_pipeline(machine: Machine, opens: datetime) -> None:
    window = {"start": f"{opens:%H:%M}", "end": f"{opens + timedelta(hours=2):%H:%M}"}
    settings: dict[str, Any] = {"healthlake": None, "receive": {"quiet_seconds": 0}}
    imaging_pipeline(machine.settings.pipelines, DAG, "5", schedule={"import_window": window}, **settings)
    machine.put({"1.dcm": ct(900)}, f"{DAG}/")


def test_no_job_is_started_before_the_window_opens(machine: Machine) -> None:
    opens = opening()
    add_pipeline(machine, opens)
    with machine.api() as api:

        def known() -> bool:
            api.reparse((api.dag("first") or {})["file_token"])
            return api.dag(DAG) is not None

        def imports() -> list[dict[str, Any]]:
            return [task for task in api.task_instances(DAG, run) if task["task_id"] == "import"]

        until("the DAG is there", known)
        api.unpause(DAG)
        run = api.trigger(DAG, {})
        until("import waits", lambda: [task["state"] for task in imports()] == ["deferred"])
        assert datetime.now(UTC) < opens
        assert machine.jobs(run_key(DAG, run)) == []

        until("the run ends", lambda: api.run_state(DAG, run) in {"success", "failed"}, 600)
        assert datetime.now(UTC) >= opens
        assert api.run_state(DAG, run) == "success"
        assert [task["try_number"] for task in imports()] == [1]
    assert len(machine.jobs(run_key(DAG, run))) == 1
    assert machine.report(DAG, run_key(DAG, run))["dispositions"] == {"released": 1}
