"""One DAG per ``kind: imaging`` pipeline: receive, buffer, parse, validate, normalize, stage, import, audit, route.

If the pipeline asks people about held data, review and release come after audit.

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
from airlock_tasks.review import ReleaseOperator, ReviewOperator
from airlock_tasks.route import RouteOperator
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
        last: BaseOperator | TaskGroup = audit
        audited_by = "audit"
        if pipeline.audit.on_hold == "review":
            release = ReleaseOperator(task_id="release", pipeline=pipeline)
            last >> ReviewOperator(task_id="review", pipeline=pipeline) >> release
            last, audited_by = release, "release"
        if pipeline.healthlake is not None:
            group = publish(pipeline, pipeline.healthlake)
            last >> group
            last, audited_by = group, "fhir.audit"
        asset = Asset(f"airlock-{pipeline.name}-contracts")
        last >> RouteOperator(task_id="route", pipeline=pipeline, asset=asset, audited_by=audited_by)
        if pipeline.has_asset_route:
            last >> add_announce_tasks(pipeline)
    return dag


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


def publish(pipeline: ImagingPipeline, healthlake: HealthLake) -> TaskGroup:
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
        import_ >> PublicationAuditOperator(task_id="audit", pipeline=pipeline, trigger_rule="all_done")
    return group


pipelines = {name: pipeline for name, pipeline in read_pipelines().items() if isinstance(pipeline, ImagingPipeline)}
dags = {name: build(pipeline) for name, pipeline in pipelines.items()}  # Airflow finds them as they are built
