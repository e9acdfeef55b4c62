"""One DAG per ``kind: ccda`` pipeline, a preview: documents through the eight stages, where import is a conversion.

The converted resources then go through the stages of the group ``fhir``, and wait for a person before route.

This file is wiring only. A wrong pipeline file makes no DAG; dags/pipelines.py shows the reason in the UI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Asset, TaskGroup

from airlock.pipelines import CcdaPipeline
from airlock_tasks.announce import add_announce_tasks
from airlock_tasks.audit import CcdaAuditOperator, ConvertedAuditOperator
from airlock_tasks.buffer import CcdaBufferOperator
from airlock_tasks.dag import new_dag, read_pipelines
from airlock_tasks.import_ import CcdaImportOperator, FhirImportOperator
from airlock_tasks.normalize import CcdaNormalizeOperator, FhirNormalizeOperator
from airlock_tasks.parse import CcdaParseOperator, FhirParseOperator
from airlock_tasks.receive import ReceiveSensor
from airlock_tasks.review import ConvertedReleaseOperator, ConvertedReviewOperator
from airlock_tasks.route import RouteOperator
from airlock_tasks.validate import CcdaValidateOperator, FhirValidateOperator

if TYPE_CHECKING:
    from airflow.sdk import DAG

FHIR = "fhir"  # the group, and the folder of the workspace


def build(pipeline: CcdaPipeline) -> DAG:
    """Return a pipeline's DAG."""
    with new_dag(pipeline) as dag:
        receive = ReceiveSensor(task_id="receive", pipeline=pipeline)
        buffer = CcdaBufferOperator(task_id="buffer", pipeline=pipeline)
        parse = CcdaParseOperator.partial(
            task_id="parse", pipeline=pipeline, map_index_template="shard {{ task.shard }}"
        ).expand(shard=buffer.output)
        validate = CcdaValidateOperator(task_id="validate", pipeline=pipeline, trigger_rule="none_failed")
        normalize = CcdaNormalizeOperator(task_id="normalize", pipeline=pipeline)
        import_ = CcdaImportOperator.partial(
            task_id="import",
            pipeline=pipeline,
            map_index_template="batch {{ task.batch_id[:12] }}",
            pool=pipeline.healthlake.pool,
        ).expand(batch_id=normalize.output)
        # The run gets its report even if the conversion failed; then no shard goes on.
        audit = CcdaAuditOperator(task_id="audit", pipeline=pipeline, trigger_rule="all_done")
        fhir = import_converted(pipeline, audit)
        review = ConvertedReviewOperator(task_id="review", pipeline=pipeline, audited_by="fhir.audit")
        release = ConvertedReleaseOperator(task_id="release", pipeline=pipeline, folder=FHIR, answered_by="review")
        route = RouteOperator(
            task_id="route",
            pipeline=pipeline,
            folder=FHIR,
            asset=Asset(f"airlock-{pipeline.name}-contracts"),
            audited_by="release",
        )
        receive >> buffer
        parse >> validate >> normalize
        import_ >> audit
        fhir >> review >> release >> route
        if pipeline.has_asset_route:
            release >> add_announce_tasks(pipeline, FHIR)
    return dag


def import_converted(pipeline: CcdaPipeline, audit: CcdaAuditOperator) -> TaskGroup:
    """Return the group of stages that import the converted resources into HealthLake, like any other FHIR."""
    with TaskGroup(FHIR) as group:
        parse = FhirParseOperator.partial(
            task_id="parse", pipeline=pipeline, folder=FHIR, map_index_template="shard {{ task.shard }}"
        ).expand(shard=audit.output)
        validate = FhirValidateOperator(task_id="validate", pipeline=pipeline, folder=FHIR, trigger_rule="none_failed")
        normalize = FhirNormalizeOperator(task_id="normalize", pipeline=pipeline, folder=FHIR)
        import_ = FhirImportOperator.partial(
            task_id="import",
            pipeline=pipeline,
            folder=FHIR,
            healthlake=pipeline.healthlake,
            validation_level=str(pipeline.risk.validation_level),
            map_index_template="batch {{ task.batch_id[:12] }}",
            pool=pipeline.healthlake.pool,
        ).expand(batch_id=normalize.output)
        parse >> validate >> normalize
        import_ >> ConvertedAuditOperator(task_id="audit", pipeline=pipeline, folder=FHIR, trigger_rule="all_done")
    return group


pipelines = {name: pipeline for name, pipeline in read_pipelines().items() if isinstance(pipeline, CcdaPipeline)}
dags = {name: build(pipeline) for name, pipeline in pipelines.items()}  # Airflow finds them as they are built
