"""What the DAGs of all kinds of pipelines have in common: where pipelines lie, a run's params, a DAG's settings."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import DAG, CronDataIntervalTimetable, Param
from dateutil.tz import gettz

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline

PIPELINES = Path(os.environ.get("AIRLOCK_PIPELINES", Path(__file__).parents[2] / "include" / "pipelines"))

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
    "plan_only": Param(
        False,
        type="boolean",
        title="Plan only",
        description="Of an imaging pipeline: stop after normalize and say what the run would do. Nothing is claimed, "
        "staged or imported; the log of normalize has the plan.",
    ),
}


def new_dag(pipeline: Pipeline) -> DAG:
    """Return a pipeline's DAG, without tasks yet."""
    schedule = pipeline.schedule
    return DAG(
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
