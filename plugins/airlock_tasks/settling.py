"""Settling: wait, in the triggerer, until releases of the last minutes may be sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import TaskDeferred

from airlock_tasks.run import PipelineT, RunOperator
from healthaws.triggers.pause import PauseTrigger

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk import Context

_LONGEST_PAUSE = 60.0  # seconds, after which the task looks whether another run waits for its slot
_MORE_SECONDS = 300.0  # for messages that a lost try has leased


class SettlingOperator(RunOperator[PipelineT]):
    """Base of operators that send releases after `settle_minutes`; they wait without a worker slot.

    A run that a backfill or an arrival started does not wait while another run of the DAG waits for its slot: the other
    one sends what has settled then, and the import of its data is not delayed.
    """

    kept: dict[str, Any] | None = None  # what the last pause kept

    def resume(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after a pause."""
        self.kept = event
        return self.execute(context)

    def may_wait(self, context: Context) -> bool:
        """Return whether the task may wait, and wait on, for messages that settle."""
        if time.time() >= self._deadline():
            return False
        by_event = self.pipeline.arrivals is not None or getattr(context["dag_run"], "run_type", "") == "backfill"
        instance = context["ti"]
        return not (by_event and instance.get_dr_count(dag_id=instance.dag_id, states=["queued"]))

    def pause(self, pause: timedelta, **kept: Any) -> TaskDeferred:
        """Return a deferral; what is kept is in `kept` afterwards."""
        seconds = min(pause.total_seconds() + 0.1, _LONGEST_PAUSE)
        self.log.info("Releases settle, or another try sends them. Looking again in %.0f s.", seconds)
        trigger = PauseTrigger(time.time() + seconds, {"deadline": self._deadline(), **kept})
        return TaskDeferred(trigger=trigger, method_name="resume")

    def _deadline(self) -> float:
        """Return when to stop waiting: others may release new revisions for ever."""
        if self.kept is not None:
            return float(self.kept["deadline"])
        own = [item.settle_minutes for item in self.pipeline.routes if item.settle_minutes is not None]
        return time.time() + 60 * max(self.pipeline.settle_minutes, *own, 0) + _MORE_SECONDS
