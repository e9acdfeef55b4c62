"""Sweep: the DAG and the task that compare everything below a pipeline's source with the ledger.

The task waits for a person's answer without a worker slot. It notifies people if an object is overdue, and writes
metrics; no key leaves the workspace.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import DAG, BaseOperator, CronTriggerTimetable, Param
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.observability.stats import Stats

from airlock.pipelines import SWEEP_SUFFIX, ClinicalPipeline
from airlock_tasks.dag import find_begin
from airlock_tasks.notify import notify_once, on_failure
from airlock_tasks.questions import Question
from airlock_tasks.run import connect_s3, ledger_url
from airlock_tasks.telemetry import note_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

    from airlock.ledger import Ledger
    from airlock.pipelines import ImagingPipeline
    from airlock.stages.review import Review
    from airlock.stages.sweep_work import Swept
    from airlock.storage.s3 import S3

TAKE_IN, LEAVE = "Take in", "Leave"
OVERDUE, VANISHED, AGE = "airlock.sweep.overdue", "airlock.sweep.vanished", "airlock.sweep.age_hours"  # metrics
PARAMS = {
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Count and name only: nothing is taken in.",
    )
}
QUESTION = Question(
    TAKE_IN,
    LEAVE,
    "take in overdue objects?",
    "Why the objects are taken in or left, and what you checked.",
    answered_by="answer_sweep",
)
_ADVICE = (
    "**Take in** if these objects belong to the archive: the next run takes exactly those that are named. It needs a "
    "reason; an answer without one is rejected, and this question is then open again.\n\n"
    "**Leave** if they do not. The next sweep asks again. docs/sweep.md says more."
)


def new_sweep_dag(pipeline: ImagingPipeline | ClinicalPipeline) -> DAG:
    """Return the DAG of a pipeline's sweeps without tasks; it is paused until a person switches it on."""
    begin = find_begin(pipeline)
    cron = None if begin is None else pipeline.sweep.cron
    return DAG(
        dag_id=f"{pipeline.name}{SWEEP_SUFFIX}",
        description=f"Compares everything below the source of {pipeline.name} with the ledger",
        schedule=None if cron is None else CronTriggerTimetable(cron, timezone=pipeline.schedule.timezone),
        start_date=begin,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=True,
        params=PARAMS,
        on_failure_callback=on_failure(pipeline),
        tags=["airlock", "sweep", pipeline.kind, *pipeline.tags],
        default_args={"retries": pipeline.retries, "retry_delay": pipeline.retry_delay},
    )


def note_age(pipeline: ImagingPipeline | ClinicalPipeline, ledger: Ledger) -> None:
    """Write the age of a pipeline's last sweep as a metric; nothing before its first."""
    from airlock.ledger.columns import ComparisonKind

    last = ledger.last_comparison(ComparisonKind.SWEEP, pipeline=pipeline.name, has_ended=True)
    if last is not None and last.ended_at is not None:
        hours = (datetime.now(UTC) - last.ended_at) / timedelta(hours=1)
        Stats.gauge(AGE, hours, tags={"pipeline": pipeline.name})


class SweepOperator(BaseOperator):
    """Sweeps a pipeline's source; asks a person about overdue objects that it does not take in by itself.

    Parameters
    ----------
    pipeline
        The pipeline.
    **kwargs
        Of :class:`airflow.sdk.BaseOperator`.
    """

    def __init__(self, *, pipeline: ImagingPipeline | ClinicalPipeline, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline

    @contextmanager
    def _open(self) -> Iterator[tuple[S3, Ledger]]:
        from airlock.ledger import Ledger

        with Ledger.open(ledger_url()) as ledger:
            yield connect_s3(self.pipeline.source.aws_conn_id, self.pipeline.bucket_settings()), ledger

    def execute(self, context: Context) -> dict[str, Any]:
        """Sweep, and return the counts.

        Raises
        ------
        AirflowFailException
            If the inventory cannot be used.
        """
        from airlock.clinical.parked import sweep_bodies
        from airlock.stages.inventory import InventoryError
        from airlock.stages.sweep import sweep

        dry_run = bool(context["params"].get("dry_run"))
        with self._open() as (s3, ledger):
            try:
                swept = sweep(self.pipeline, s3, ledger, str(context["run_id"]), dry_run=dry_run)
            except InventoryError as error:
                raise AirflowFailException(str(error)) from None
            note_age(self.pipeline, ledger)
            if isinstance(self.pipeline, ClinicalPipeline) and swept.caution is None:  # the ledger may be an older one
                swept_bodies = sweep_bodies(self.pipeline, s3, ledger)
                self.log.info("Deleted %d bodies of resources that are not parked any more.", swept_bodies)
        self._tell(swept, context)
        result = {"overdue": swept.overdue, "taken_in": swept.taken_in, "asks": swept.asks, "report": swept.report_uri}
        if swept.asks and swept.caution is None:
            self._ask(swept, context, result)
        return result

    def _tell(self, swept: Swept, context: Context) -> None:
        """Log the counts, write the metrics, and notify people if an object is overdue."""
        from airlock.stages.sweep_report import describe

        lines = describe(swept.report)
        for line in (*lines, f"Report: {swept.report_uri}"):
            self.log.info("%s", line)
        tags = {"pipeline": self.pipeline.name}
        Stats.gauge(OVERDUE, swept.overdue, tags=tags)
        Stats.gauge(VANISHED, swept.report["vanished"], tags=tags)
        note_ledger(self.pipeline.name)
        if swept.overdue:
            notify_once(self.pipeline, "sweep", context, " ".join(lines))

    def _ask(self, swept: Swept, context: Context, result: dict[str, Any]) -> NoReturn:
        """Ask whether the named objects are taken in, and wait for the answer."""
        why = "because they are too many, or below first folders that are new"
        told = f"{swept.asks} objects below the source are overdue and not taken in, {why}."
        where = f"They are named in {swept.report['overdue_uri']}"
        kept = {"number": swept.report["sweep"], "result": result}
        QUESTION.ask(context, self.pipeline, told, where, _ADVICE, within=self._answer_within, **kept)

    def answer_sweep(
        self, context: Context, event: dict[str, Any], number: int, result: dict[str, Any]
    ) -> dict[str, Any]:
        """Record the answer, and take in what was named if it says so; without an answer nothing happens."""
        review = QUESTION.read(context, self.pipeline, event, within=self._answer_within, number=number, result=result)
        if not event.get("responded_by_user"):
            self.log.warning("Nobody answered in time. Nothing is taken in; the next sweep asks again.")
            return result
        owed = self._record(number, review)
        self.log.info("A person has answered: %d of the named objects are owed now.", owed)
        return result | {"taken_in": result["taken_in"] + owed}

    def _record(self, number: int, review: Review) -> int:
        from airlock.stages.sweep_answer import answer

        person, why = review.person or "unknown", review.why or "no reason given"
        with self._open() as (s3, ledger):
            named = answer(self.pipeline, s3, ledger, number, take_in=review.approved, person=person, why=why)
        return named[1]

    @property
    def _answer_within(self) -> timedelta:
        return timedelta(hours=self.pipeline.sweep.answer_hours)
