"""One DAG per ``kind: imaging`` pipeline: receive, buffer, parse, validate, normalize, import, audit, route.

Wiring only. A pipeline file that is wrong makes no DAG here; dags/pipelines.py shows why in the UI.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, Param
from dateutil.tz import gettz

from airlock.pipelines import load_pipelines
from airlock_tasks.audit import AuditOperator
from airlock_tasks.buffer import BufferOperator
from airlock_tasks.import_ import ImportOperator
from airlock_tasks.normalize import NormalizeOperator
from airlock_tasks.parse import ParseOperator
from airlock_tasks.receive import ReceiveSensor
from airlock_tasks.route import RouteOperator
from airlock_tasks.validate import ValidateOperator

if TYPE_CHECKING:
    from airlock.pipelines import ImagingPipeline

PIPELINES = Path(os.environ.get("AIRLOCK_PIPELINES", Path(__file__).parents[1] / "include" / "pipelines"))

PARAMS = {
    "prefix": Param(
        None,
        type=["null", "string"],
        title="Prefix",
        description="Take in only what lies below this prefix, from the bucket on, as deliveries/2026/: it lies "
        "below the pipeline's source.uri and ends in '/'.",
    ),
    "window_start": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Window start",
        description="Take in arrivals from this moment on, and by last-modified also those of the lookback before it "
        "that no run has taken; for runs that are started by hand.",
    ),
    "window_end": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Window end",
        description="Take in only arrivals before this moment.",
    ),
}


def build(pipeline: ImagingPipeline) -> DAG:
    """Return a pipeline's DAG."""
    schedule = pipeline.schedule
    dag = DAG(
        dag_id=pipeline.name,
        description=pipeline.description or None,
        schedule=CronDataIntervalTimetable(schedule.cron, timezone=schedule.timezone) if schedule.cron else None,
        start_date=datetime.combine(schedule.start_date, datetime.min.time(), tzinfo=gettz(schedule.timezone)),
        catchup=schedule.catchup,
        max_active_runs=schedule.max_active_runs,
        params=PARAMS,
        tags=["airlock", pipeline.kind, *pipeline.tags],
        default_args={"retries": pipeline.retries, "retry_delay": pipeline.retry_delay},
    )
    with dag:
        receive = ReceiveSensor(task_id="receive", pipeline=pipeline)
        buffer = BufferOperator(task_id="buffer", pipeline=pipeline)
        parse = ParseOperator.partial(
            task_id="parse", pipeline=pipeline, map_index_template="shard {{ task.shard }}"
        ).expand(shard=buffer.output)
        # An empty delivery maps nothing: what is skipped for want of work must not stop the report.
        validate = ValidateOperator(task_id="validate", pipeline=pipeline, trigger_rule="none_failed")
        normalize = NormalizeOperator(task_id="normalize", pipeline=pipeline)
        import_ = ImportOperator.partial(
            task_id="import",
            pipeline=pipeline,
            map_index_template="batch {{ task.batch_id[:12] }}",
            pool=pipeline.healthimaging.pool,
        ).expand(batch_id=normalize.output)
        audit = AuditOperator(task_id="audit", pipeline=pipeline, trigger_rule="all_done")
        route = RouteOperator(task_id="route", pipeline=pipeline, asset=Asset(f"airlock-{pipeline.name}-contracts"))
        receive >> buffer
        parse >> validate >> normalize
        import_ >> audit >> route
    return dag


pipelines, _problems = load_pipelines(PIPELINES)
dags = {name: build(pipeline) for name, pipeline in pipelines.items()}  # Airflow finds them as they are built
