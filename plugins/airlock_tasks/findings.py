"""Metrics of what reconciliations have found: each run writes them, since the command is not one of Airflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow.sdk.observability.stats import Stats

from airlock.pipelines import ImagingPipeline

if TYPE_CHECKING:
    from airlock.ledger import Ledger
    from airlock.pipelines import ClinicalPipeline

FINDINGS, AGE = "airlock.reconcile.findings", "airlock.reconcile.age_hours"  # metrics
PUBLISHED_FINDINGS, PUBLISHED_AGE = "airlock.reconcile.published_findings", "airlock.reconcile.published_age_hours"


def note_findings(pipeline: ImagingPipeline | ClinicalPipeline, ledger: Ledger) -> None:
    """Write how many findings are open about a pipeline's data store, and about what it has published in HealthLake."""
    _note(pipeline.name, pipeline.datastore_id, ledger, FINDINGS, AGE)
    if isinstance(pipeline, ImagingPipeline) and pipeline.publication is not None:
        _note(pipeline.name, pipeline.publication.datastore_id, ledger, PUBLISHED_FINDINGS, PUBLISHED_AGE)


def _note(name: str, datastore_id: str, ledger: Ledger, findings: str, age: str) -> None:
    """Write the open findings of a pipeline about a data store, by kind, and the age of their last comparison.

    Nothing is written before the first comparison has ended.
    """
    from airlock.ledger.columns import ComparisonKind
    from airlock.stages.reconcile_report import SENTENCES

    last = ledger.last_comparison(ComparisonKind.RECONCILE, pipeline=name, datastore_id=datastore_id, has_ended=True)
    if last is None or last.ended_at is None:
        return
    found = ledger.count_findings(pipeline=name, datastore_id=datastore_id)
    counts = dict(found.select("kind", "findings").iter_rows())
    for kind in SENTENCES:
        Stats.gauge(findings, counts.get(kind.value, 0), tags={"pipeline": name, "kind": kind.value})
    Stats.gauge(age, (datetime.now(UTC) - last.ended_at) / timedelta(hours=1), tags={"pipeline": name})
