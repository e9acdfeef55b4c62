"""What the DAGs of all kinds of pipelines have in common: where pipelines lie, a run's params, a DAG's settings."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronDataIntervalTimetable, Param
from dateutil.tz import gettz

from airlock_tasks.arrivals import arrivals_asset
from airlock_tasks.notify import on_failure

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline, ImagingPipeline, Pipeline

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
        description="Stop after normalize and say what the run would do. Nothing is claimed, staged or imported; the "
        "log of normalize has the plan.",
    ),
}

# What takes settled arrivals through again; read by airlock.stages.redrive_request.
OF_STUDIES = ("redrive_study", "redrive_non_primary")
REDRIVE_PARAMS = {
    "redrive_run": Param(
        None,
        type=["null", "string"],
        title="Redrive: run",
        description="Take through again what this run held, quarantined or failed: its run_key or run id, as in its "
        "report. What is given together must all hold.",
    ),
    "redrive_study": Param(
        None,
        type=["null", "string"],
        title="Redrive: study",
        description="Take through again what is held, quarantined or failed of this study: its study key, 16 hex "
        "digits; never a UID.",
    ),
    "redrive_reasons": Param(
        None,
        type=["null", "array"],
        items={"type": "string"},
        title="Redrive: reasons",
        description="Take through again what has one of these reason codes, one a line.",
    ),
    "redrive_csv": Param(
        None,
        type=["null", "string"],
        title="Redrive: edited list",
        description="Take through again the rows that were kept of a run's dispositions.csv: s3://bucket/key.csv.",
    ),
    "redrive_non_primary": Param(
        None,
        type=["null", "string"],
        enum=[None, "promote", "delete"],
        title="Redrive: non-primary image sets",
        description="promote makes the grouping elements those of the primary image sets and joins them; delete "
        "deletes the non-primary image set from the data store for good.",
    ),
    "redrive_why": Param(
        None,
        type=["null", "string"],
        title="Redrive: why",
        description="Needed for a redrive. It goes to the ledger and the report: name no patient.",
    ),
    "redrive_by": Param(
        None,
        type=["null", "string"],
        title="Redrive: who",
        description="Who wants it; without it the user that starts the run.",
    ),
}


def new_dag(pipeline: ImagingPipeline | ClinicalPipeline) -> DAG:
    """Return a pipeline's DAG, without tasks yet."""
    schedule = pipeline.schedule
    return DAG(
        dag_id=pipeline.name,
        description=pipeline.description or None,
        schedule=_schedule(pipeline),
        start_date=datetime.combine(schedule.start_date, datetime.min.time(), tzinfo=gettz(schedule.timezone)),
        catchup=schedule.catchup,
        max_active_runs=schedule.max_active_runs,
        params=_params(pipeline),
        on_failure_callback=on_failure(pipeline),
        tags=["airlock", pipeline.kind, *pipeline.tags],
        default_args={"retries": pipeline.retries, "retry_delay": pipeline.retry_delay},
    )


def _params(pipeline: Pipeline) -> dict[str, Param]:
    """Return what the form offers: of studies only where there are some."""
    others = () if pipeline.has_studies else OF_STUDIES
    return PARAMS | {name: param for name, param in REDRIVE_PARAMS.items() if name not in others}


def _schedule(pipeline: ImagingPipeline | ClinicalPipeline) -> Any:
    """Return when runs start by themselves: nightly, when something arrives, both, or never."""
    cron = pipeline.schedule.cron
    nightly = CronDataIntervalTimetable(cron, timezone=pipeline.schedule.timezone) if cron else None
    if pipeline.arrivals is None:
        return nightly
    assets = [arrivals_asset(pipeline, pipeline.arrivals)]
    return AssetOrTimeSchedule(assets=assets, timetable=nightly) if nightly else assets
