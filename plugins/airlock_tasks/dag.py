"""The parts that the DAGs of all kinds share: the folder of pipeline files, a run's params, a DAG's settings."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, AssetOrTimeSchedule, CronDataIntervalTimetable, Param, get_parsing_context
from dateutil.tz import gettz

from airlock.pipelines import REVIEW_SUFFIX, SWEEP_SUFFIX, load_pipelines
from airlock_tasks.arrivals import arrivals_asset
from airlock_tasks.notify import on_failure

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline, ImagingPipeline, Pipeline

PIPELINES = Path(os.environ.get("AIRLOCK_PIPELINES", Path(__file__).parents[2] / "include" / "pipelines"))

OBJECTS, PLAN, REDRIVE, BY_AIRLOCK = "What to take in", "Plan", "Redrive", "Set by Airlock"  # sections of the form
PARAMS = {
    "prefix": Param(
        None,
        type=["null", "string"],
        title="Prefix",
        section=OBJECTS,
        description="Only import objects whose key starts with this, for example deliveries/2026/. The prefix must be "
        "inside the pipeline's source.uri and end with '/'.",
    ),
    "window_start": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Window start",
        section=OBJECTS,
        description="Only import objects that arrived at or after this time. If the pipeline goes by last-modified, "
        "objects from the lookback hours before it are included unless a run has taken them. If it goes by dates in "
        "keys, give whole days. Give Window end too.",
    ),
    "window_end": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Window end",
        section=OBJECTS,
        description="Only import objects that arrived before this time.",
    ),
    "plan_only": Param(
        False,
        type="boolean",
        title="Plan only",
        section=PLAN,
        description="Dry run: list, read and check, then stop after normalize. Nothing is claimed, staged or imported. "
        "The plan is in the log of normalize.",
    ),
}

# Params of the second and later runs of a delivery that is too large for one run; Airlock sets them.
WAVE_PARAMS = {
    "wave": Param(
        None,
        type=["null", "integer"],
        minimum=2,
        title="Wave: number",
        section=BY_AIRLOCK,
        description="Set by Airlock: which part of a large delivery this run takes.",
    ),
    "wave_of": Param(
        None,
        type=["null", "string"],
        title="Wave: of run",
        section=BY_AIRLOCK,
        description="Set by Airlock: the run that listed this delivery.",
    ),
}

# Params of a redrive, which airlock.stages.redrive_request reads; OF_STUDIES only in pipelines that have studies.
OF_STUDIES = ("redrive_study", "redrive_non_primary")
REDRIVE_PARAMS = {
    "redrive_run": Param(
        None,
        type=["null", "string"],
        title="Redrive: run",
        section=REDRIVE,
        description="Process again everything that this run held, quarantined or failed. Give its run_key or run id, "
        "as in its report. If you fill in several of these fields, an arrival must match all of them.",
    ),
    "redrive_study": Param(
        None,
        type=["null", "string"],
        title="Redrive: study",
        section=REDRIVE,
        description="Process again everything of this study that is held, quarantined or failed. Give its study key "
        "(16 hex digits), never a UID.",
    ),
    "redrive_reasons": Param(
        None,
        type=["null", "array"],
        items={"type": "string"},
        title="Redrive: reasons",
        section=REDRIVE,
        description="Process again everything that has one of these reason codes. One code per line.",
    ),
    "redrive_site": Param(
        None,
        type=["null", "string"],
        title="Redrive: site",
        section=REDRIVE,
        description="Only of this site, as the console and the totals name it; with a run, a study or reasons.",
    ),
    "redrive_csv": Param(
        None,
        type=["null", "string"],
        title="Redrive: edited list",
        section=REDRIVE,
        description="Process again the rows that you left in a copy of a run's dispositions.csv: s3://bucket/key.csv.",
    ),
    "redrive_findings": Param(
        False,
        type="boolean",
        title="Redrive: what the data store has lost",
        section=REDRIVE,
        description="Import again everything that airlock reconcile found to be missing in the data store.",
    ),
    "redrive_non_primary": Param(
        None,
        type=["null", "string"],
        enum=[None, "promote", "delete"],
        title="Redrive: non-primary image sets",
        section=REDRIVE,
        description="promote: set the conflicting attributes to those of the primary image sets, and merge the "
        "instances into the study. delete: delete the non-primary image set from the data store for good.",
    ),
    "redrive_why": Param(
        None,
        type=["null", "string"],
        title="Redrive: why",
        section=REDRIVE,
        description="Required for a redrive. It is stored in the ledger and the report: do not name a patient.",
    ),
    "redrive_by": Param(
        None,
        type=["null", "string"],
        title="Redrive: who",
        section=REDRIVE,
        description="Who asks for the redrive. If empty: the user who starts the run.",
    ),
}


def read_pipelines() -> dict[str, Pipeline]:
    """Return the valid pipelines by name; in a task only that of its DAG, since every task parses its DAG file."""
    name = (get_parsing_context().dag_id or "").removesuffix(SWEEP_SUFFIX).removesuffix(REVIEW_SUFFIX)
    if name:
        found = load_pipelines(PIPELINES, name)[0]
        if name in found:
            return {name: found[name]}
    return load_pipelines(PIPELINES)[0]


def new_dag(pipeline: ImagingPipeline | ClinicalPipeline) -> DAG:
    """Return a pipeline's DAG without tasks."""
    schedule, begin = pipeline.schedule, find_begin(pipeline)
    return DAG(
        dag_id=pipeline.name,
        description=pipeline.description or None,
        doc_md=describe_dag(pipeline),
        owner_links={} if pipeline.owner_link is None else {pipeline.owner: pipeline.owner_link},
        schedule=_schedule(pipeline, is_timed=begin is not None),
        start_date=begin,
        catchup=schedule.catchup and begin is not None,
        max_active_runs=schedule.max_active_runs,
        params=_params(pipeline),
        on_failure_callback=on_failure(pipeline),
        tags=["airlock", pipeline.kind, *pipeline.tags],
        default_args={
            "retries": pipeline.retries,
            "retry_delay": pipeline.retry_delay,
            "owner": pipeline.owner,
            "weight_rule": "upstream",  # what is begun goes on first; by default parse of the next wave would
        },
    )


def describe_dag(pipeline: Pipeline) -> str:
    """Return the text that the UI shows about a DAG: where its results are, and what to do about a red task."""
    return (
        f"{pipeline.description or f'The {pipeline.kind} pipeline {pipeline.name}'}\n\n"
        "**A green run does not mean that all is well.** The tab *Audit* of a run says whether the books balance, what "
        "was released, held and rejected, and why. *Airlock* in the navigation has all pipelines and what to do "
        "now.\n\n"
        "**A task is red:** its log names the cause and the remedy. Fix the cause, then clear the task with its "
        "downstream: nothing is imported or sent twice.\n\n"
        "**To process again** what was held or rejected, trigger a run and fill in the section *Redrive* of its form, "
        "or use the buttons of *Airlock*."
    )


def find_begin(pipeline: Pipeline) -> datetime | None:
    """Return when the first interval of a pipeline begins; None while that is to come.

    Until then its DAGs have no cron: a run from before its DAG's start date would get no tasks, and be a success.
    """
    schedule = pipeline.schedule
    begin = datetime.combine(schedule.start_date, datetime.min.time(), tzinfo=gettz(schedule.timezone))
    return begin if begin <= datetime.now(UTC) else None


def _params(pipeline: Pipeline) -> dict[str, Param]:
    """Return the params of the form; those about studies only if the pipeline has studies.

    A task gets their defaults only: Airflow checks a run's conf when it makes the run, and copies all params for every
    operator of the DAG.
    """
    left_out = () if pipeline.has_studies else OF_STUDIES
    redrive = {name: param for name, param in REDRIVE_PARAMS.items() if name not in left_out}
    params = PARAMS | redrive | (WAVE_PARAMS if pipeline.wave_limits else {})
    if get_parsing_context().dag_id is None:
        return params
    return {name: Param(param.value) for name, param in params.items()}


def _schedule(pipeline: ImagingPipeline | ClinicalPipeline, *, is_timed: bool) -> Any:
    """Return the DAG's schedule: by cron, by arrivals of the queue, by both, or None."""
    cron = pipeline.schedule.cron if is_timed else None
    nightly = CronDataIntervalTimetable(cron, timezone=pipeline.schedule.timezone) if cron else None
    if pipeline.arrivals is None:
        return nightly
    assets = [arrivals_asset(pipeline, pipeline.arrivals)]
    return AssetOrTimeSchedule(assets=assets, timetable=nightly) if nightly else assets
