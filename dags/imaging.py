"""One DAG per ``kind: imaging`` pipeline: receive, buffer, parse, validate, normalize, stage, import, audit, route.

If the pipeline asks people about held data, a second DAG ``<pipeline>__review`` releases what they have approved.

This file is wiring only. A wrong pipeline file makes no DAG; dags/pipelines.py shows the reason in the UI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, TaskGroup, task_group

from airlock.pipelines import ImagingPipeline
from airlock_tasks.announce import add_announce_tasks
from airlock_tasks.audit import AuditOperator, PublicationAuditOperator
from airlock_tasks.buffer import BufferOperator
from airlock_tasks.dag import new_dag, read_pipelines
from airlock_tasks.import_ import FhirImportOperator, ImportOperator
from airlock_tasks.normalize import NormalizeOperator, PublicationNormalizeOperator
from airlock_tasks.parse import ParseOperator
from airlock_tasks.receive import ReceiveSensor
from airlock_tasks.review import (
    RELEASE,
    PublicationReleaseOperator,
    ReleaseOperator,
    RemindOperator,
    add_end,
    new_review_dag,
)
from airlock_tasks.route import ImagingRouteOperator
from airlock_tasks.run import REMIND
from airlock_tasks.stage import StageOperator
from airlock_tasks.validate import ValidateOperator
from airlock_tasks.waves import NextWaveOperator

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator

    from airlock.pipelines import HealthLake


def build(pipeline: ImagingPipeline) -> DAG:
    """Return a pipeline's DAG."""
    with new_dag(pipeline) as dag:
        receive = ReceiveSensor(task_id="receive", pipeline=pipeline)
        buffer = BufferOperator(task_id="buffer", pipeline=pipeline)
        parse = ParseOperator.partial(
            task_id="parse", pipeline=pipeline, map_index_template="shard {{ task.shard }}"
        ).expand(shard=buffer.output)
        # An empty delivery maps no task; a skipped parse must not skip the report too.
        validate = ValidateOperator(task_id="validate", pipeline=pipeline, trigger_rule="none_failed")
        normalize = NormalizeOperator(task_id="normalize", pipeline=pipeline)
        batches = add_batch_tasks(pipeline, normalize.output)
        audit = AuditOperator(task_id="audit", pipeline=pipeline, trigger_rule="all_done")
        receive >> buffer >> NextWaveOperator(task_id="next_wave", pipeline=pipeline)
        parse >> validate >> normalize
        batches >> audit
        add_route_tasks(pipeline, audit, PublicationAuditOperator)
    return dag


def build_review(pipeline: ImagingPipeline) -> DAG:
    """Return the DAG that reminds people, and releases the studies that they have approved."""
    with new_review_dag(pipeline) as dag:
        release = ReleaseOperator(task_id=RELEASE, pipeline=pipeline)
        RemindOperator(task_id=REMIND, pipeline=pipeline) >> release
        route = add_route_tasks(pipeline, release, PublicationReleaseOperator)
        add_end(pipeline, route)
    return dag


def add_route_tasks(
    pipeline: ImagingPipeline, audited: AuditOperator, audit_publication: type[PublicationAuditOperator]
) -> ImagingRouteOperator:
    """Add what follows an audit: publication, if the pipeline publishes, and route; return route."""
    last: BaseOperator | TaskGroup = audited
    audited_by = audited.task_id
    if pipeline.healthlake is not None:
        group = publish(pipeline, pipeline.healthlake, audit_publication)
        last >> group
        last, audited_by = group, "fhir.audit"
    asset = Asset(f"airlock-{pipeline.name}-contracts")
    route = ImagingRouteOperator(task_id="route", pipeline=pipeline, asset=asset, audited_by=audited_by)
    last >> route
    if pipeline.has_asset_route:
        last >> add_announce_tasks(pipeline)
    return route


def add_batch_tasks(pipeline: ImagingPipeline, batch_ids: Any) -> Any:
    """Return the group that stages and imports each batch; a batch is imported as soon as it is staged."""

    @task_group(group_id="batch", prefix_group_id=False)
    def batch(batch_id: str) -> None:
        named = "batch {{ task.batch_id[:12] }}"
        stage = StageOperator(
            task_id="stage",
            pipeline=pipeline,
            batch_id=batch_id,
            map_index_template=named,
            pool=pipeline.staging.pool,
        )
        stage >> ImportOperator(
            task_id="import",
            pipeline=pipeline,
            batch_id=batch_id,
            map_index_template=named,
            pool=pipeline.healthimaging.pool,
        )

    return batch.expand(batch_id=batch_ids)


def publish(
    pipeline: ImagingPipeline, healthlake: HealthLake, audit_publication: type[PublicationAuditOperator]
) -> TaskGroup:
    """Return the group of stages that publish released studies as FHIR and audit the publication."""
    with TaskGroup("fhir") as group:
        normalize = PublicationNormalizeOperator(task_id="normalize", pipeline=pipeline)
        import_ = FhirImportOperator.partial(
            task_id="import",
            pipeline=pipeline,
            folder="fhir",
            healthlake=healthlake,
            validation_level="strict",
            map_index_template="batch {{ task.batch_id[:12] }}",
            pool=healthlake.pool,
        ).expand(batch_id=normalize.output)
        import_ >> audit_publication(task_id="audit", pipeline=pipeline, trigger_rule="all_done")
    return group


pipelines = {name: pipeline for name, pipeline in read_pipelines().items() if isinstance(pipeline, ImagingPipeline)}
dags = {name: build(pipeline) for name, pipeline in pipelines.items()}  # Airflow finds them as they are built
reviews = {name: build_review(pipeline) for name, pipeline in pipelines.items() if pipeline.asks_people}
