"""The DAGs of the pipelines that ship, by name, and one of the kind that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ccda
import clinical
import imaging
from tests.unit.airlock.clinical.books import CCDA
from tests.unit.airlock.clinical.books import pipeline as clinical_pipeline

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airlock.pipelines import Pipeline

PIPELINES: dict[str, Pipeline] = {**imaging.pipelines, **clinical.pipelines}
DAGS: dict[str, DAG] = {**imaging.dags, **clinical.dags}


def documents() -> DAG:
    """Return the DAG of a ``kind: ccda`` pipeline, of which none ships: it is a preview."""
    return ccda.build(clinical_pipeline(name="documents", **CCDA))
