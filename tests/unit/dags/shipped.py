"""The DAGs of the pipelines that ship, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ccda
import clinical
import imaging

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airlock.pipelines import Pipeline

PIPELINES: dict[str, Pipeline] = {**imaging.pipelines, **clinical.pipelines, **ccda.pipelines}
DAGS: dict[str, DAG] = {**imaging.dags, **clinical.dags, **ccda.dags}
