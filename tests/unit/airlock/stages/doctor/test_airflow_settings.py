"""Which settings of ``[core] executor`` leave all tasks on one machine."""

from __future__ import annotations

import pytest

from airlock.stages.doctor.airflow_settings import are_local_executors


@pytest.mark.parametrize(
    "setting",
    [
        "LocalExecutor",
        " LocalExecutor ",
        "airflow.executors.local_executor.LocalExecutor",
        "small:LocalExecutor",
        "LocalExecutor;radiology=LocalExecutor",
    ],
)
def test_a_local_executor_counts_by_any_of_its_names(setting: str) -> None:
    assert are_local_executors(setting)


@pytest.mark.parametrize(
    "setting",
    [
        "CeleryExecutor",
        "KubernetesExecutor",
        "LocalExecutor,KubernetesExecutor",
        "LocalExecutor;radiology=CeleryExecutor",
        "LocalKubernetesExecutor",
        "LocalExecutor:airflow.providers.celery.executors.celery_executor.CeleryExecutor",
        "edge:airflow.providers.edge3.executors.EdgeExecutor",
    ],
)
def test_one_other_executor_is_enough_to_run_tasks_elsewhere(setting: str) -> None:
    assert not are_local_executors(setting)
