"""Review: a person approves, in Airflow's own form, what is held for it; and what the answer does."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from airlock_tasks.audit import ConvertedAuditOperator
from airlock_tasks.stage import open_run

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.ccda.release import Review
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run

APPROVE, KEEP_HELD = "Approve", "Keep held"
NOT_ASKED: dict[str, Any] = {"chosen_options": []}  # instead of an answer
PARAMS = {
    "reason": Param(
        None,
        type=["null", "string"],
        title="Reason",
        description="what was looked at and why it may go downstream; an approval needs it",
    )
}


class ReviewOperator(HITLOperator):
    """Waits for a person's answer, without a slot; asks nothing when nothing waits for it.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is; its ``review`` says who is asked, and for how long.
    audited_by
        The task whose counts are shown.
    **kwargs
        Of :class:`airflow.providers.standard.operators.hitl.HITLOperator`.
    """

    def __init__(self, *, pipeline: CcdaPipeline, audited_by: str, **kwargs: Any) -> None:
        counts = f"(ti.xcom_pull(task_ids='{audited_by}') or {{}})"
        super().__init__(
            subject=f"{pipeline.name}: release what was converted from C-CDA?",
            body=(
                f"For: {pipeline.review.by}.\n\n"
                "The conversion is a preview of AWS's and its output needs clinical review. "
                f"Files: {{{{ {counts}.get('arrivals') }}}}. Resources: {{{{ {counts}.get('resources') }}}}. "
                f"By disposition: {{{{ {counts}.get('dispositions') }}}}.\n\n"
                f"Report: {{{{ {counts}.get('report_uri') }}}}"
            ),
            options=[APPROVE, KEEP_HELD],
            defaults=[KEEP_HELD],
            response_timeout=timedelta(hours=pipeline.review.timeout_hours),
            # Airflow hands the DAG's params to every operator; those of the form take their place.
            **(kwargs | {"params": PARAMS}),
        )
        self.pipeline = pipeline

    def execute(self, context: Context) -> Any:
        """Ask, unless nothing waits for it."""
        from airlock.ccda.release import record_question

        # The form's own params stand among the run's here.
        of_the_run = {name: value for name, value in context["params"].items() if name not in PARAMS}
        run = open_run(self.pipeline, cast("Context", {**context, "params": of_the_run}))
        with run.ledger:
            waiting = record_question(run)
        self.log.info("%d resources wait for a review", waiting)
        return super().execute(context) if waiting else NOT_ASKED


class ReleaseOperator(ConvertedAuditOperator):
    """Records a person's answer, in the ledger too, and audits the run again with it.

    Where nobody was asked, an earlier answer stands.

    Parameters
    ----------
    answered_by
        The review task.
    **kwargs
        Of :class:`ConvertedAuditOperator`.
    """

    def __init__(self, *, answered_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answered_by = answered_by

    def run_stage(self, run: Run[Any], context: Context) -> dict[str, Any]:
        """Record the answer and audit again.

        Raises
        ------
        AirflowFailException
            If an approval gives no reason, or more waits now than was asked about.
        """
        from airlock.ccda.release import ReviewError, record_review

        answer = context["ti"].xcom_pull(task_ids=self.answered_by)
        if answer["chosen_options"]:
            try:
                record_review(run.within(""), _review(answer))
            except ReviewError as error:
                raise AirflowFailException(str(error)) from None
        return super().run_stage(run, context)


def _review(answer: dict[str, Any]) -> Review:
    from airlock.ccda.release import Review

    person = answer.get("responded_by_user") or {}
    return Review(
        approved=answer["chosen_options"] == [APPROVE],
        person=str(person.get("name") or person.get("id") or ""),
        why=str((answer.get("params_input") or {}).get("reason") or ""),
        answered_at=str(answer.get("responded_at") or ""),
    )
