"""The DAG of an imaging pipeline: its shape, its patience, and what its file costs to read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.definitions.mappedoperator import MappedOperator

import imaging
from airlock.pipelines import load_pipelines

ROOT = Path(__file__).parents[3]
STAGES = ["receive", "buffer", "parse", "validate", "normalize", "import", "audit", "route"]


@pytest.fixture(params=sorted(imaging.pipelines))
def dag(request: pytest.FixtureRequest) -> Any:
    return dag_of(request.param)


def dag_of(pipeline: str) -> Any:
    return imaging.dags[pipeline]


def test_every_shipped_pipeline_makes_a_dag() -> None:
    names, problems = load_pipelines(ROOT / "include/pipelines")
    assert problems == []
    assert set(imaging.pipelines) == set(names) == {"sample", "nightly"}


def test_dag_folder_and_plugins_load_without_errors() -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags"))
    assert bag.import_errors == {}
    assert {"sample", "nightly"} <= set(bag.dags)


def test_stages_are_in_order(dag: Any) -> None:
    assert [task.task_id for task in dag.topological_sort()] == STAGES


def test_every_task_retries_at_least_twice(dag: Any) -> None:
    """Airflow 3.3.2 can fail a deferrable task whose trigger fires early; the retry reconnects."""
    assert all(task.retries >= 2 for task in dag.tasks)


def test_mapped_tasks_are_parse_and_import(dag: Any) -> None:
    assert {task.task_id for task in dag.tasks if isinstance(task, MappedOperator)} == {"parse", "import"}


def test_imports_hold_a_slot_of_the_pool(dag: Any) -> None:
    assert dag.get_task("import").pool == "healthimaging_import"


def test_report_is_written_whatever_failed(dag: Any) -> None:
    assert dag.get_task("audit").trigger_rule == "all_done"
    assert dag.get_task("route").trigger_rule == "all_success"


def test_nightly_runs_at_two_and_sample_by_hand() -> None:
    assert dag_of("sample").timetable.can_be_scheduled is False
    assert dag_of("nightly").timetable.can_be_scheduled is True
    assert dag_of("nightly").catchup is False


def test_form_offers_prefix_and_window(dag: Any) -> None:
    assert set(dag.params) == {"prefix", "window_start", "window_end"}


def test_dag_can_be_serialized_and_holds_no_settings_of_the_pipeline(dag: Any) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    text = json.dumps(DagSerialization.to_dict(dag))
    assert imaging.pipelines[dag.dag_id].staging.uri not in text


def test_reading_the_file_loads_nothing_heavy() -> None:
    """What is counted are modules, since seconds depend on the machine; `python -X importtime` shows the seconds."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'plugins'}{os.pathsep}{ROOT / 'dags'}"}
    heavy = ("polars", "pydicom", "obstore", "alembic", "moto", "airlock.ledger", "airlock.s3")
    code = f"import sys, imaging; print([name for name in {heavy!r} if name in sys.modules])"
    command = [sys.executable, "-W", "ignore", "-c", code]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert said.strip().splitlines()[-1] == "[]"


def test_retry_delay_is_the_pipelines(dag: Any) -> None:
    seconds = imaging.pipelines[dag.dag_id].retry_delay_seconds
    assert all(task.retry_delay == timedelta(seconds=seconds) for task in dag.tasks)
