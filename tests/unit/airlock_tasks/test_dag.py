"""Which pipelines a parse of a DAG file reads."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import CronDataIntervalTimetable, get_parsing_context

import airlock.pipelines.files
import imaging
import sweep
from airlock.pipelines import load_pipelines
from airlock_tasks import dag
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock.pipelines import Pipeline

DAY = timedelta(days=1)
SHIPPED = Path(__file__).parents[3] / "include" / "pipelines"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(SHIPPED, tmp_path / "pipelines")
    monkeypatch.setattr(dag, "PIPELINES", tmp_path / "pipelines")
    return tmp_path / "pipelines"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are read as pipelines."""
    names: list[str] = []
    load_pipeline = airlock.pipelines.files.load_pipeline

    def note(path: Path) -> Pipeline:
        names.append(path.name)
        return load_pipeline(path)

    monkeypatch.setattr(airlock.pipelines.files, "load_pipeline", note)
    return names


@pytest.fixture
def in_task(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Parse from now on as a task of this DAG does."""

    def enter(dag_id: str) -> None:
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", dag_id)
        assert get_parsing_context().dag_id == dag_id

    return enter


def test_the_dag_processor_reads_every_pipeline(folder: Path) -> None:
    assert dag.read_pipelines() == load_pipelines(SHIPPED)[0]


@pytest.mark.parametrize("dag_id", ["nightly", "nightly__sweep", "nightly__review"])
def test_a_task_reads_the_pipeline_of_its_dag_only(
    folder: Path, read: list[str], in_task: Callable[[str], None], dag_id: str
) -> None:
    in_task(dag_id)
    assert [pipeline.name for pipeline in dag.read_pipelines().values()] == ["nightly"]
    assert read == ["nightly.yaml"]


@pytest.mark.parametrize("line", ["name: 'nightly'", 'name:   "nightly"  # the night run'])
def test_a_quoted_name_is_found_at_once(
    folder: Path, read: list[str], in_task: Callable[[str], None], line: str
) -> None:
    rename(folder / "nightly.yaml", line)
    in_task("nightly")
    assert set(dag.read_pipelines()) == {"nightly"}
    assert read == ["nightly.yaml"]


def test_a_name_in_another_form_is_found_among_all(folder: Path, in_task: Callable[[str], None]) -> None:
    rename(folder / "nightly.yaml", r'"name": "n\x69ghtly"')
    in_task("nightly")
    assert "nightly" in dag.read_pipelines()


def test_two_files_of_one_name_make_no_dag_in_a_task_either(folder: Path, in_task: Callable[[str], None]) -> None:
    shutil.copy(folder / "nightly.yaml", folder / "copy.yaml")
    in_task("nightly")
    assert "nightly" not in dag.read_pipelines()


def test_the_other_files_may_be_wrong(folder: Path, in_task: Callable[[str], None]) -> None:
    (folder / "wrong.yaml").write_text("name: other\nkind: none\n")
    (folder / "latin.yaml").write_bytes(b"# \xe9\n")
    in_task("nightly")
    assert set(dag.read_pipelines()) == {"nightly"}


def rename(file: Path, line: str) -> None:
    file.write_text(file.read_text().replace("name: nightly", line, 1))


def test_the_form_has_the_checks_and_a_task_has_the_same_defaults(in_task: Callable[[str], None]) -> None:
    pipeline = load_pipelines(SHIPPED)[0]["nightly"]
    form = dag.new_dag(pipeline).params
    assert form.get_param("plan_only").schema["type"] == "boolean"
    in_task("nightly")
    params = dag.new_dag(pipeline).params
    assert params.dump() == form.dump()
    assert params.get_param("plan_only").schema == {}


@pytest.mark.parametrize("changes", [{"cron": "0 2 * * *"}, {"cron": "0 2 * * *", "catchup": True}])
def test_a_schedule_that_is_to_begin_has_no_start_date_yet(changes: dict[str, Any]) -> None:
    """Airflow gives a run from before its DAG's start date no tasks, and calls it a success."""
    began, begins = (
        imaging.build(pipeline(schedule=changes | {"start_date": f"{day}"}))
        for day in (datetime.now(UTC).date() - DAY, datetime.now(UTC).date() + 2 * DAY)
    )
    assert began.start_date is not None
    assert (type(began.timetable), began.catchup) == (CronDataIntervalTimetable, changes.get("catchup", False))
    assert (begins.start_date, begins.catchup, begins.timetable.can_be_scheduled) == (None, False, False)
    assert {task.start_date for task in begins.tasks} == {None}


def test_the_queue_wakes_a_pipeline_whose_schedule_is_to_begin() -> None:
    line = pipeline(
        schedule={"cron": "0 2 * * *", "start_date": "2999-01-01"},
        arrivals={"queue_url": "https://sqs.us-east-1.amazonaws.com/123456789012/arrivals"},
    )
    assert imaging.build(line).timetable.asset_condition


def test_a_sweep_that_is_to_begin_can_be_run_by_hand() -> None:
    found = sweep.build(pipeline(schedule={"start_date": "2999-01-01"}, sweep={"cron": "0 5 * * 0"}))
    assert (found.start_date, found.timetable.can_be_scheduled) == (None, False)
