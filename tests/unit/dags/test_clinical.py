"""The DAG of a clinical pipeline: the same eight stages, and the depth that its risk asks for."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.definitions.mappedoperator import MappedOperator

import clinical
from tests.unit.airlock.clinical.books import MINIMAL
from tests.unit.airlock.clinical.books import pipeline as pipeline_of
from tests.unit.dags.shipped import DAGS

STAGES = ["receive", "buffer", "parse", "validate", "normalize", "import", "audit", "route"]
DAG: Any = DAGS["clinical"]


def test_stages_are_in_order() -> None:
    assert [task.task_id for task in DAG.topological_sort()] == STAGES


def test_mapped_tasks_are_parse_and_import() -> None:
    assert {task.task_id for task in DAG.tasks if isinstance(task, MappedOperator)} == {"parse", "import"}


def test_imports_hold_a_slot_of_the_pool() -> None:
    assert DAG.get_task("import").pool == "healthlake_import"


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"risk": {"workflow": "contract"}}, "strict"),
        ({"risk": {"workflow": "modernization"}}, "structure-only"),
        (MINIMAL, "minimal"),
    ],
)
def test_the_risk_decides_the_validation_level(changes: dict[str, Any], level: str) -> None:
    task: Any = clinical.build(pipeline_of(**changes)).get_task("import")
    assert task.partial_kwargs["validation_level"] == level


def test_a_pipeline_of_another_kind_makes_no_dag_here() -> None:
    assert set(clinical.dags) == {"clinical"}
