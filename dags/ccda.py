"""One DAG per ``kind: ccda`` pipeline, a preview: documents through the eight stages, where import is a conversion.

The converted resources then go through the stages of the group ``fhir``. The DAG ``<pipeline>__review`` releases those
that a person has approved.

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
from airlock_tasks.review import (
    RELEASE,
    ConvertedReleaseOperator,
    RemindOperator,
    add_end,
    new_review_dag,
)
from airlock_tasks.route import RouteOperator
from airlock_tasks.run import REMIND
from airlock_tasks.validate import CcdaValidateOperator, FhirValidateOperator

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator

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
        receive >> buffer
        parse >> validate >> normalize
        import_ >> audit
        add_route_tasks(pipeline, fhir, "fhir.audit")
    return dag


def build_review(pipeline: CcdaPipeline) -> DAG:
    """Return the DAG that reminds people, and releases the converted resources that they have approved."""
    with new_review_dag(pipeline) as dag:
        release = ConvertedReleaseOperator(task_id=RELEASE, pipeline=pipeline, folder=FHIR)
        RemindOperator(task_id=REMIND, pipeline=pipeline) >> release
        route = add_route_tasks(pipeline, release, release.task_id)
        add_end(pipeline, route)
    return dag


def add_route_tasks(pipeline: CcdaPipeline, audited: BaseOperator | TaskGroup, audited_by: str) -> RouteOperator:
    """Add what follows an audit; return route."""
    asset = Asset(f"airlock-{pipeline.name}-contracts")
    route = RouteOperator(task_id="route", pipeline=pipeline, folder=FHIR, asset=asset, audited_by=audited_by)
    audited >> route
    if pipeline.has_asset_route:
        audited >> add_announce_tasks(pipeline, FHIR)
    return route


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
reviews = {name: build_review(pipeline) for name, pipeline in pipelines.items()}
