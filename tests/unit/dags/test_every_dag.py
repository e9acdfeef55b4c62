"""What the DAGs of all kinds of pipelines have in common: their patience, their form, what their files cost to read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airlock.pipelines import load_pipelines
from airlock.stages.redrive_request import OF_STUDIES
from airlock.stages.redrive_request import PARAMS as REDRIVES
from airlock_tasks.dag import PIPELINES as FOLDER
from airlock_tasks.run import PARAMS
from tests.unit.dags.shipped import DAGS, PIPELINES

ROOT = Path(__file__).parents[3]
FILES = ("imaging", "clinical", "ccda", "sweep")


@pytest.fixture(params=sorted(DAGS))
def dag(request: pytest.FixtureRequest) -> Any:
    return DAGS[request.param]


def test_every_shipped_pipeline_makes_one_dag() -> None:
    names, problems = load_pipelines(FOLDER)
    assert problems == []
    assert set(DAGS) == set(names) == {"sample", "nightly", "arrivals", "edge", "one-patient", "clinical", "ccda"}


def test_dag_folder_and_plugins_load_without_errors() -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags"))
    assert bag.import_errors == {}
    assert set(DAGS) <= set(bag.dags)


def test_airflow_passes_over_none_of_the_files() -> None:
    from airflow.utils.file import might_contain_dag

    assert [path.name for path in sorted((ROOT / "dags").glob("*.py")) if not might_contain_dag(str(path), True)] == []


def test_only_imaging_runs_two_runs_at_once(dag: Any) -> None:
    assert dag.max_active_runs == (2 if PIPELINES[dag.dag_id].kind == "imaging" else 1)


def test_every_task_retries_at_least_twice(dag: Any) -> None:
    """Airflow 3.3.2 can fail a deferrable task whose trigger fires early; the retry reconnects."""
    assert all(task.retries >= 2 for task in dag.tasks)


def test_what_is_begun_goes_on_before_more_is_begun(dag: Any) -> None:
    """By default the first stages of the next wave would keep the slots from the last stages of this one."""
    assert {task.weight_rule for task in dag.tasks} == {"upstream"}


def test_report_is_written_whatever_failed(dag: Any) -> None:
    assert dag.get_task("audit").trigger_rule == "all_done"
    assert dag.get_task("route").trigger_rule == "all_success"


def test_form_offers_what_a_run_understands(dag: Any) -> None:
    is_imaging = PIPELINES[dag.dag_id].kind == "imaging"
    assert set(dag.params) == (set(PARAMS) if is_imaging else set(PARAMS) - {*OF_STUDIES, "wave", "wave_of"})
    assert set(REDRIVES) == {name for name in PARAMS if name.startswith("redrive_")}


def test_dag_can_be_serialized_and_holds_no_settings_of_the_pipeline(dag: Any) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    text = json.dumps(DagSerialization.to_dict(dag))
    assert PIPELINES[dag.dag_id].staging.uri not in text


def test_retry_delay_is_the_pipelines(dag: Any) -> None:
    seconds = PIPELINES[dag.dag_id].retry_delay_seconds
    assert all(task.retry_delay == timedelta(seconds=seconds) for task in dag.tasks)


def test_only_what_has_a_schedule_runs_by_itself() -> None:
    assert {name for name, dag in DAGS.items() if dag.timetable.can_be_scheduled} == {"nightly", "arrivals", "edge"}
    assert not any(dag.catchup for dag in DAGS.values())


def test_reading_the_files_loads_nothing_heavy() -> None:
    """What is counted are modules, since seconds depend on the machine; `python -X importtime` shows the seconds."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'plugins'}{os.pathsep}{ROOT / 'dags'}"}
    heavy = ("polars", "pydicom", "obstore", "alembic", "moto", "fhirkit", "airlock.ledger", "airlock.storage.s3")
    code = f"import sys, {', '.join(FILES)}; print([name for name in {heavy!r} if name in sys.modules])"
    command = [sys.executable, "-W", "ignore", "-c", code]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert said.strip().splitlines()[-1] == "[]"


def test_a_dag_says_where_its_results_are_and_who_answers_for_it(dag: Any) -> None:
    assert "*Audit*" in dag.doc_md
    assert dag.owner == "airlock"


def test_the_owner_s_name_leads_to_the_owner() -> None:
    import imaging

    named = PIPELINES["nightly"].model_copy(
        update={"owner": "archive team", "owner_link": "mailto:archive@hospital.example"}
    )
    made: Any = imaging.build(named)
    assert made.owner_links == {"archive team": "mailto:archive@hospital.example"}
    assert {task.owner for task in made.tasks} == {"archive team"}


def test_the_form_has_its_fields_in_sections(dag: Any) -> None:
    sections = {name: dag.params.get_param(name).schema["section"] for name in dag.params}
    assert {sections[name] for name in sections if name.startswith("redrive_")} == {"Redrive"}
    assert sections["prefix"] == sections["window_end"] == "What to take in"
