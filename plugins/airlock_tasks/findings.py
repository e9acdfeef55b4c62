"""Metrics of what reconciliations have found: each run writes them, since the command is not one of Airflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow.sdk.observability.stats import Stats

if TYPE_CHECKING:
    from airlock.ledger import Ledger
    from airlock.pipelines import ClinicalPipeline, ImagingPipeline

FINDINGS, AGE = "airlock.reconcile.findings", "airlock.reconcile.age_hours"  # metrics


def note_findings(pipeline: ImagingPipeline | ClinicalPipeline, ledger: Ledger) -> None:
    """Write how many findings about a pipeline's data store are open, by kind, and the age of its last comparison.

    Nothing is written before the first comparison of everything has ended.
    """
    from airlock.ledger.columns import ComparisonKind
    from airlock.stages.reconcile_report import SENTENCES

    name, store = pipeline.name, pipeline.datastore_id
    last = ledger.last_comparison(ComparisonKind.RECONCILE, pipeline=name, datastore_id=store, has_ended=True)
    if last is None or last.ended_at is None:
        return
    counts = dict(ledger.count_findings(pipeline=name, datastore_id=store).select("kind", "findings").iter_rows())
    for kind in SENTENCES:
        Stats.gauge(FINDINGS, counts.get(kind.value, 0), tags={"pipeline": pipeline.name, "kind": kind.value})
    Stats.gauge(AGE, (datetime.now(UTC) - last.ended_at) / timedelta(hours=1), tags={"pipeline": pipeline.name})
