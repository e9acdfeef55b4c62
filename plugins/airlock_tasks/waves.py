"""Waves: start the run that takes the next part of a delivery that is too large for one run."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Never

from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException
from typing_extensions import override

from airlock.pipelines import ImagingPipeline
from airlock_tasks.run import RunOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run


class NextWaveOperator(RunOperator[ImagingPipeline]):
    """Starts the run of the next wave, once; skips where the delivery has no further one."""

    @override
    def run_stage(self, run: Run, context: Context) -> Never:
        from airlock.stages.waves import find_next_wave

        following = find_next_wave(run)
        if following is None:
            raise AirflowSkipException("The delivery has no further wave.")
        run_id, params = following
        self.log.info("Run %s takes the next wave.", run_id)
        # Airflow's own operator raises this too; importing that one costs each task of the DAG half a second.
        raise DagRunTriggerException(
            trigger_dag_id=self.pipeline.name,
            dag_run_id=run_id,
            conf={name: value for name, value in context["params"].items() if name == "prefix" and value} | params,
            logical_date=_find_date(context),
            reset_dag_run=False,
            skip_when_already_exists=True,
            wait_for_completion=False,
            allowed_states=[],
            failed_states=[],
            poke_interval=60,
            deferrable=False,
        )


def _find_date(context: Context) -> datetime | None:
    """Return the next wave's logical date: just behind this one's, so that Airflow serves the earlier wave first.

    The time of day could be before the DAG's start date, or ahead of the scheduler's clock: the wave would have no
    tasks, or wait. A run that the queue has woken has no date, and so its waves have none.
    """
    date = context["dag_run"].logical_date
    return None if date is None else date + timedelta(microseconds=1)
