"""One DAG ``<pipeline>__sweep`` per pipeline with ``sweep.cron``: it compares the whole source with the ledger.

This file is wiring only. A wrong pipeline file makes no DAG; dags/pipelines.py shows the reason in the UI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from airlock_tasks.dag import read_pipelines
from airlock_tasks.sweep import SweepOperator, new_sweep_dag

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airlock.pipelines import ClinicalPipeline, ImagingPipeline


def build(pipeline: ImagingPipeline | ClinicalPipeline) -> DAG:
    """Return the DAG of a pipeline's sweeps."""
    with new_sweep_dag(pipeline) as dag:
        SweepOperator(task_id="sweep", pipeline=pipeline)
    return dag


pipelines = cast("dict[str, ImagingPipeline | ClinicalPipeline]", read_pipelines())
dags = {name: build(one) for name, one in pipelines.items() if one.sweep.cron is not None}  # Airflow finds them
