"""Example: one DAG run per released study, started by an Airflow asset event.

A pipeline with the route ``asset: {name: airlock-example-studies}`` tells this asset of every contract it releases,
with the study_key as partition; Airflow starts one run of this DAG for each, whose ``partition_key`` it is. Copy it,
give the asset a name of your own, and put your work in place of the task.

It comes paused, and runs only if you unpause it and a pipeline names its asset. AIRLOCK_EXAMPLE_DAGS=false in Airflow's
environment leaves it out altogether.
"""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset, PartitionedAssetTimetable, get_current_context, task

ASSET = "airlock-example-studies"


@task
def study() -> str:
    """Return the study_key, which reveals no identifier.

    An event is given at least once, so a study may come twice: do here only what may be done again. The contract itself
    is where an ``uri`` route puts it, below ``<study_key>/``.
    """
    key = get_current_context()["dag_run"].partition_key
    if key is None:
        raise ValueError("this run has no partition: it is started by an asset event, not by hand")
    return key


if os.environ.get("AIRLOCK_EXAMPLE_DAGS", "true").lower() != "false":
    with DAG(
        dag_id="example_study",
        description="one run per released study: an example to copy",
        schedule=PartitionedAssetTimetable(assets=Asset(ASSET)),
        catchup=False,
        is_paused_upon_creation=True,
        max_active_runs=4,
        default_args={"retries": 2},
        tags=["airlock", "example"],
    ) as dag:
        study()
