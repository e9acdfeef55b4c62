"""Review: the DAG that reminds people of what waits for their answer, and releases what they have approved.

No run of a pipeline waits for a person. Each run of this DAG takes one run of the pipeline that has answers: it audits
it again, which applies them, publishes what that releases, and routes it. A last task starts the DAG again for the next
such run, so that one that fails keeps no other waiting.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Never

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, CronTriggerTimetable, Param
from airflow.sdk.exceptions import (
    AirflowRuntimeError,
    AirflowSkipException,
    DagRunTriggerException,
    DownstreamTasksSkipped,
)
from typing_extensions import override

from airlock.pipelines import REVIEW_SUFFIX, CcdaPipeline, ClinicalPipeline, ImagingPipeline
from airlock_tasks.audit import (
    AuditedT,
    AuditOperator,
    BaseAuditOperator,
    ConvertedAuditOperator,
    FhirAuditOperator,
    PublicationAuditOperator,
)
from airlock_tasks.dag import BY_AIRLOCK, find_begin
from airlock_tasks.notify import on_failure, send_notifications
from airlock_tasks.run import REMIND, ledger_url
from airlock_tasks.telemetry import note_ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airlock.ledger import Ledger
    from airlock.ledger.reviews import ReviewGroup
    from airlock.run import Run

WITHOUT = "without"  # the param with the runs that this chain of DAG runs has taken
NEXT, END = "next_review", "end"
RELEASE = "release"
CONSIDERED = "considered"  # in the result of release: the last decision that it has considered
_GOES_ON = {"queued", "running"}
_CHAIN = "answers__"  # how the ids of further runs of a chain begin
_NOT_FOUND = 404
_log = logging.getLogger(__name__)
PARAMS = {
    WITHOUT: Param(
        [],
        type="array",
        items={"type": "string"},
        title="Runs already taken",
        section=BY_AIRLOCK,
        description="Set by Airlock: keys of runs whose answers were applied, or could not be.",
    )
}


def new_review_dag(pipeline: ImagingPipeline | ClinicalPipeline) -> DAG:
    """Return the DAG of a pipeline's reviews without tasks.

    It is not paused at first: an answer that nobody applies would be lost on its person.

    Raises
    ------
    ValueError
        If the pipeline has no review section.
    """
    if pipeline.review is None:
        raise ValueError(f"Pipeline {pipeline.name!r} has no review section.")
    timetable = CronTriggerTimetable(pipeline.review.schedule, timezone=pipeline.schedule.timezone)
    return DAG(
        dag_id=f"{pipeline.name}{REVIEW_SUFFIX}",
        description=f"Reminds people of the reviews of {pipeline.name}, and releases what they have approved",
        # Without a start date its first run is at the next time of the schedule. With one, it is that of the last time:
        # a stack that starts would do it beside its first delivery.
        schedule=None if find_begin(pipeline) is None else timetable,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        params=PARAMS,
        on_failure_callback=on_failure(pipeline),
        tags=["airlock", "review", pipeline.kind, *pipeline.tags],
        default_args={"retries": pipeline.retries, "retry_delay": pipeline.retry_delay, "owner": pipeline.owner},
    )


def add_end(pipeline: ImagingPipeline | ClinicalPipeline, route: BaseOperator) -> None:
    """Add what comes after route: the next review, whatever became of this one, and the end, which fails with route.

    Airflow judges a DAG run by its last tasks. The next review begins after a failure too, and would hide it.
    """
    route >> NextReviewOperator(task_id=NEXT, pipeline=pipeline, trigger_rule="none_skipped")
    route >> EmptyOperator(task_id=END)


class RemindOperator(BaseOperator):
    """Reminds people of reviews that wait for too long, and chooses the run whose answers are applied next.

    It skips everything behind it if there is none, so that an hour without answers costs one short task.

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

    def execute(self, context: Context) -> dict[str, str]:
        """Return the run with the oldest answers that are not applied, among runs that have ended.

        Raises
        ------
        DownstreamTasksSkipped
            If there is none.
        """
        from airlock.ledger import Ledger

        note_ledger(self.pipeline.name)
        with Ledger.open(ledger_url()) as ledger:
            self._remind(ledger, context)
            chosen = self._choose(ledger, context)
        if chosen is None:
            self.log.info("There is no answer to apply.")
            behind = [task.task_id for task in self.get_flat_relatives(upstream=False)]
            raise DownstreamTasksSkipped(tasks=behind)  # type: ignore[no-untyped-call]  # Airflow's own is not typed
        self.log.info("The answers about run %s are applied.", chosen["run_id"])
        return chosen

    def _remind(self, ledger: Ledger, context: Context) -> None:
        """Tell people of overdue reviews. If no notifier takes it, the next run of this DAG tries again."""
        review = self.pipeline.review
        assert review is not None  # noqa: S101  # for mypy: `new_review_dag` has checked it
        after = timedelta(hours=review.remind_hours), timedelta(hours=review.escalate_hours)
        due = ledger.find_overdue(self.pipeline.name, *after)
        told = (
            (due.reminded, review.remind_hours, f"For: {review.by}"),
            (due.escalated, review.escalate_hours, _name_deputies(review.deputies)),
        )
        news = "\n".join(describe_waiting(*one) for one in told if one[0])
        dag_id = f"{self.pipeline.name}{REVIEW_SUFFIX}"
        if news and send_notifications(self.pipeline, "review", str(context["run_id"]), news, dag_id):
            ledger.mark_overdue(self.pipeline.name, due)

    def _choose(self, ledger: Ledger, context: Context) -> dict[str, str] | None:
        taken = context["params"].get(WITHOUT) or ()
        for key, run_id in ledger.answered_runs(self.pipeline.name):
            if key not in taken and not _is_running(context, self.pipeline.name, run_id):
                return {"run_key": key, "run_id": run_id}
        return None


def _name_deputies(deputies: Sequence[str]) -> str:
    return f"Escalated to: {', '.join(deputies)}" if deputies else "Escalated; review.deputies names nobody"


def describe_waiting(groups: Sequence[ReviewGroup], hours: float, people: str) -> str:
    """Return a sentence about reviews that have waited for so many hours: counts and reason codes."""
    counts: dict[str, int] = {}
    for one in groups:
        counts[one.reason] = counts.get(one.reason, 0) + one.reviews
    total, codes = sum(counts.values()), ", ".join(f"{code} {number}" for code, number in sorted(counts.items()))
    wait = "review has" if total == 1 else "reviews have"
    return (
        f"{total} {wait} waited for an answer for more than {hours:g} hours: {codes}. {people}. Answer in Airlock's "
        f"page Triage, or with airlock review."
    )


def _is_running(context: Context, dag_id: str, run_id: str) -> bool:
    """Return whether a run goes on: its own tasks use the workspace in which it would be audited again."""
    try:
        return str(context["ti"].get_dagrun_state(dag_id, run_id)) in _GOES_ON
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == _NOT_FOUND:  # the DAG run was deleted
            return False
        raise


class _ReleaseOperator(BaseAuditOperator[AuditedT]):
    """Audits a run again, which applies people's answers; the last audit closes those that it has considered."""

    notifies = False

    @override
    def run_stage(self, run: Run[AuditedT], context: Context) -> dict[str, Any]:
        until = run.ledger.last_approval(run.key)
        result = super().run_stage(run, context)
        if self.has_final_numbers:
            _close(run, until)
        return result | {CONSIDERED: until}


def _close(run: Run[Any], until: int) -> None:
    """Close the approvals that the audit has considered, and tell people of those that did not count."""
    left = run.ledger.close_approvals(run.key, until)
    if left:
        text = (
            f"{left} approvals did not count: their findings have changed since, or a redrive has taken over what they "
            "are about. It stays held."
        )
        _log.warning(text)
        send_notifications(run.pipeline, "review", run.run_id, text)


class ReleaseOperator(_ReleaseOperator[ImagingPipeline], AuditOperator):
    """Audits a run of images again, which applies people's answers about its studies."""


class FhirReleaseOperator(_ReleaseOperator[ClinicalPipeline], FhirAuditOperator):
    """Audits a run of FHIR resources again, which applies people's answers about its patients and files."""


class ConvertedReleaseOperator(_ReleaseOperator[CcdaPipeline], ConvertedAuditOperator):
    """Audits the import of converted resources again, which applies the answer about them."""


class PublicationReleaseOperator(PublicationAuditOperator):
    """Audits the publication of what people have released; they were notified of what is held before."""

    notifies = False

    @override
    def run_stage(self, run: Run, context: Context) -> dict[str, Any]:
        result = super().run_stage(run, context)
        released = context["ti"].xcom_pull(task_ids=RELEASE) or {}  # a later answer has not been published
        _close(run, released.get(CONSIDERED, 0))
        return result


class NextReviewOperator(BaseOperator):
    """Starts the DAG again if another run has answers, whatever became of this one; skips otherwise.

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

    def execute(self, context: Context) -> Never:
        """Start the next run of the chain.

        Raises
        ------
        AirflowSkipException
            If no other run has answers.
        """
        from airlock.ledger import Ledger

        chosen = context["ti"].xcom_pull(task_ids=REMIND) or {}
        taken = [*(context["params"].get(WITHOUT) or ()), *(key for key in [chosen.get("run_key")] if key)]
        with Ledger.open(ledger_url()) as ledger:
            left = [key for key, _ in ledger.answered_runs(self.pipeline.name) if key not in taken]
        if not chosen or not left:
            raise AirflowSkipException("No other run has answers.")
        first = str(context["run_id"]).partition(f"{_CHAIN}{len(taken) - 1}__")
        raise DagRunTriggerException(
            trigger_dag_id=f"{self.pipeline.name}{REVIEW_SUFFIX}",
            dag_run_id=f"{_CHAIN}{len(taken)}__{first[2] or first[0]}",
            conf={WITHOUT: taken},
            logical_date=None,
            reset_dag_run=False,
            skip_when_already_exists=True,
            wait_for_completion=False,
            allowed_states=[],
            failed_states=[],
            poke_interval=60,
            deferrable=False,
        )
