"""The DAG of a pipeline's sweeps exists with a cron only, and is paused until a person switches it on."""

from __future__ import annotations

import json
from typing import Any

import pytest

import sweep
from tests.chain import ccda_pipeline, clinical_pipeline, pipeline
from tests.unit.dags.shipped import DAGS

SATURDAYS = {"cron": "0 8 * * 6"}


def test_no_shipped_pipeline_has_one() -> None:
    assert sweep.dags == {}
    assert set(sweep.pipelines) == set(DAGS)


@pytest.mark.parametrize("kind", [pipeline, clinical_pipeline, ccda_pipeline])
def test_with_a_cron_it_is_one_task_and_paused(kind: Any) -> None:
    dag = sweep.build(kind(sweep=SATURDAYS))
    assert dag.dag_id == f"{kind().name}__sweep"
    assert [task.task_id for task in dag.tasks] == ["sweep"]
    assert dag.is_paused_upon_creation
    assert (dag.catchup, dag.max_active_runs) == (False, 1)


def test_it_can_be_serialized_and_holds_no_settings_of_the_pipeline() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    text = json.dumps(DagSerialization.to_dict(sweep.build(pipeline(sweep=SATURDAYS))))
    assert pipeline().staging.uri not in text
