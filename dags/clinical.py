"""One DAG per ``kind: clinical`` pipeline: receive, buffer, parse, validate, normalize, import, audit, route.

If the pipeline asks people about held data, a second DAG ``<pipeline>__review`` releases what they have approved.

This file is wiring only. A wrong pipeline file makes no DAG; dags/pipelines.py shows the reason in the UI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Asset

from airlock.pipelines import CcdaPipeline, ClinicalPipeline
from airlock_tasks.announce import add_announce_tasks
from airlock_tasks.audit import FhirAuditOperator
from airlock_tasks.buffer import FhirBufferOperator
from airlock_tasks.dag import new_dag, read_pipelines
from airlock_tasks.import_ import FhirImportOperator
from airlock_tasks.normalize import FhirNormalizeOperator
from airlock_tasks.parse import FhirParseOperator
from airlock_tasks.receive import ReceiveSensor
from airlock_tasks.review import RELEASE, FhirReleaseOperator, RemindOperator, add_end, new_review_dag
from airlock_tasks.route import RouteOperator
from airlock_tasks.run import REMIND
from airlock_tasks.validate import FhirValidateOperator

if TYPE_CHECKING:
    from airflow.sdk import DAG


def build(pipeline: ClinicalPipeline) -> DAG:
    """Return a pipeline's DAG."""
    with new_dag(pipeline) as dag:
        receive = ReceiveSensor(task_id="receive", pipeline=pipeline)
        buffer = FhirBufferOperator(task_id="buffer", pipeline=pipeline)
        parse = FhirParseOperator.partial(
            task_id="parse", pipeline=pipeline, map_index_template="shard {{ task.shard }}"
        ).expand(shard=buffer.output)
        # An empty delivery maps no task; a skipped parse must not skip the report too.
        validate = FhirValidateOperator(task_id="validate", pipeline=pipeline, trigger_rule="none_failed")
        normalize = FhirNormalizeOperator(task_id="normalize", pipeline=pipeline)
        import_ = FhirImportOperator.partial(
            task_id="import",
            pipeline=pipeline,
            healthlake=pipeline.healthlake,
            validation_level=str(pipeline.risk.validation_level),
            map_index_template="batch {{ task.batch_id[:12] }}",
            pool=pipeline.healthlake.pool,
        ).expand(batch_id=normalize.output)
        audit = FhirAuditOperator(task_id="audit", pipeline=pipeline, trigger_rule="all_done")
        receive >> buffer
        parse >> validate >> normalize
        import_ >> audit
        add_route_tasks(pipeline, audit)
    return dag


def build_review(pipeline: ClinicalPipeline) -> DAG:
    """Return the DAG that reminds people, and releases what they have approved."""
    with new_review_dag(pipeline) as dag:
        release = FhirReleaseOperator(task_id=RELEASE, pipeline=pipeline)
        RemindOperator(task_id=REMIND, pipeline=pipeline) >> release
        route = add_route_tasks(pipeline, release)
        add_end(pipeline, route)
    return dag


def add_route_tasks(pipeline: ClinicalPipeline, audited: FhirAuditOperator) -> RouteOperator:
    """Add what follows an audit; return route."""
    asset = Asset(f"airlock-{pipeline.name}-contracts")
    route = RouteOperator(task_id="route", pipeline=pipeline, asset=asset, audited_by=audited.task_id)
    audited >> route
    if pipeline.has_asset_route:
        audited >> add_announce_tasks(pipeline)
    return route


pipelines = {
    name: pipeline
    for name, pipeline in read_pipelines().items()
    if isinstance(pipeline, ClinicalPipeline) and not isinstance(pipeline, CcdaPipeline)
}
dags = {name: build(pipeline) for name, pipeline in pipelines.items()}  # Airflow finds them as they are built
reviews = {name: build_review(pipeline) for name, pipeline in pipelines.items() if pipeline.asks_people}
