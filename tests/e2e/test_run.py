"""A newcomer's runs on the real scheduler: what they print, what Airflow says of them, and what nobody may see."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from airlock.run import run_key
from tests.e2e.conftest import CANARY, until

if TYPE_CHECKING:
    import subprocess

    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXPECTED = {
    "released": {f"clean/{study}/{n}.dcm" for study in (1, 2) for n in (1, 2, 3)},
    "quarantined": {"conflict/a.dcm", "conflict/b.dcm", "broken/cut.dcm", "broken/CANARY-ID in a name.dcm"},
    "held": {"broken/whole.dcm"},
    "ignored": {"notes.txt"},
}


def _first(machine: Machine) -> dict[str, str]:
    """Return the run that make run has started; other tests redrive some of it."""
    with machine.api() as api:
        return min(api.runs("first"), key=lambda found: found["run_after"])


@pytest.mark.usefixtures("first_run")
class TestFirstRun:
    def test_exits_well_and_says_where_things_are(self, first_run: subprocess.CompletedProcess[str]) -> None:
        assert first_run.returncode == 0, first_run.stdout + first_run.stderr
        assert "the books balance" in first_run.stdout
        assert "dispositions.csv" in first_run.stdout

    def test_every_file_is_in_exactly_one_place(self, machine: Machine) -> None:
        with (machine.settings.var / "dispositions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        found: dict[str, set[str]] = {}
        for row in rows:
            found.setdefault(row["disposition"], set()).add(row["key"].split("/", 2)[2])
            assert row["disposition"] == "released" or row["reason"]
        assert found == EXPECTED
        assert len(rows) == sum(map(len, EXPECTED.values()))

    def test_report_balances(self, machine: Machine) -> None:
        report = json.loads((machine.settings.var / "report.json").read_text())
        assert report["balanced"] is True
        assert report["dispositions"] == {name: len(keys) for name, keys in EXPECTED.items()}
        assert report["studies"] == {"released": 2, "held": 1, "stopped": 1}

    def test_airflow_shows_a_successful_run_of_nine_stages_and_the_publication(self, machine: Machine) -> None:
        run = _first(machine)
        assert run["state"] == "success"
        with machine.api() as api:
            tasks = api.task_instances("first", run["dag_run_id"])
        stages = ("receive", "buffer", "parse", "validate", "normalize", "stage", "import", "audit", "route")
        published = ("fhir.normalize", "fhir.import", "fhir.audit")
        found = {task["task_id"]: task["state"] for task in tasks}
        assert found.pop("next_wave") == "skipped"
        assert found == dict.fromkeys((*stages, *published), "success")

    def test_no_identifier_in_logs_or_in_anything_that_airflow_stores(self, machine: Machine) -> None:
        """XCom, rendered templates, task and map-index names all lie in Airflow's database."""
        canaries = [text.encode() for text in (*CANARY.values(), "1.2.826.0.1.3680043.10.1580")]
        logs = [path for path in machine.settings.var.rglob("*") if path.suffix == ".log"]
        assert logs
        shown = [path.name for path in logs if any(canary in path.read_bytes() for canary in canaries)]
        assert shown == []
        with sqlite3.connect(f"file:{machine.settings.airflow_home / 'airflow.db'}?mode=ro", uri=True) as database:
            dump = "\n".join(database.iterdump()).encode()
        assert b"return_value" in dump
        assert [canary for canary in canaries if canary in dump] == []

    def test_the_same_folder_again_imports_nothing_and_says_so(self, machine: Machine, first_folder: Path) -> None:
        again = machine.make_run(first_folder)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "Nothing new" in again.stdout
        assert json.loads((machine.settings.var / "report.json").read_text())["jobs"] == []
        assert "dispositions.csv is unchanged" in again.stdout
        self.test_every_file_is_in_exactly_one_place(machine)

    def test_a_second_run_leaves_no_errors_of_pools_and_no_discarded_connections_in_the_logs(
        self, machine: Machine
    ) -> None:
        logs = "\n".join(path.read_text(errors="replace") for path in machine.settings.var.rglob("*.log"))
        assert "INSERT INTO slot_pool" not in logs
        assert "Connection pool is full" not in logs

    def test_clearing_import_and_what_follows_starts_no_second_job(self, machine: Machine) -> None:
        run = _first(machine)["dag_run_id"]
        key = run_key("first", run)
        before, jobs = machine.report("first", key), machine.jobs(key)
        cleared = {"dry_run": False, "dag_run_id": run, "task_ids": ["import"], "include_downstream": True}
        with machine.api() as api:
            api._call("POST", "/api/v2/dags/first/clearTaskInstances", json=cleared | {"only_failed": False})
            until("the run ends again", lambda: api.run_state("first", run) == "success")
        assert machine.report("first", key) == before
        assert machine.jobs(key) == jobs
        assert len(jobs) == 1

    def test_a_person_may_ask_for_one_more_job(self, machine: Machine) -> None:
        run = _first(machine)["dag_run_id"]
        task = f"/api/v2/dags/first/dagRuns/{quote(run, safe='')}/taskInstances/import"
        cleared = {"dry_run": False, "dag_run_id": run, "task_ids": ["import"], "include_downstream": True}
        with machine.api() as api:
            api._call("PUT", f"{task}/state-store/generation", params={"map_index": 0}, json={"value": 1})
            api._call("POST", "/api/v2/dags/first/clearTaskInstances", json=cleared | {"only_failed": False})
            until("the run ends again", lambda: api.run_state("first", run) == "success")
        assert len(machine.jobs(run_key("first", run))) == 2


def test_workers_have_loaded_what_tasks_need_but_no_library_with_threads(first_run: object, machine: Machine) -> None:
    workers = machine.workers()
    assert workers
    for worker in workers:
        mapped = {Path(region.path).parts[-2:] for region in worker.memory_maps() if region.path.endswith(".so")}
        packages = {folder for folder, _ in mapped}
        assert "aiohttp" in packages
        assert not any(name.startswith(("_polars", "pyarrow")) for name in packages)
        assert worker.num_threads() == 1


@pytest.mark.parametrize("source", ["/no/such/folder", "s3://no-such-bucket/x/"])
def test_source_that_is_not_there_is_named_in_a_sentence(machine: Machine, source: str) -> None:
    command = machine.make_run(source)
    said = command.stdout + command.stderr
    assert command.returncode == 2
    assert source in said
    assert "Traceback" not in said
