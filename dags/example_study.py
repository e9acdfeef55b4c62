"""Example: one DAG run per released study, started by an Airflow asset event.

A pipeline with the route ``asset: {name: airlock-example-studies}`` emits one event of this asset for each contract
that it releases, with the study_key as partition. Airflow starts one run of this DAG for each event, whose
``partition_key`` is the study_key. Copy this file, give the asset your own name, and replace the task with your work.

The DAG is paused at first. It runs if you unpause it and a pipeline names its asset. Set AIRLOCK_EXAMPLE_DAGS=false in
Airflow's environment to remove it.
"""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset, PartitionedAssetTimetable, get_current_context, task

ASSET = "airlock-example-studies"


@task
def study() -> str:
    """Return the study_key, which reveals no identifier.

    An event may come more than once, so make your work repeatable. A route with ``uri`` stores the contract itself
    below ``<study_key>/``.
    """
    key = get_current_context()["dag_run"].partition_key
    if key is None:
        raise ValueError("This run has no partition. Let an asset event start it, not a person.")
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
