"""Review: a person decides, in Airflow's own form, on what is held; and what the answer does.

An answer that does not say enough fails the try, and the next one asks again. Airflow keeps a question's text from its
first try on, whatever a later one says, so the form tells beforehand what an approval needs.
"""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError

from airlock_tasks.audit import AuditOperator, ConvertedAuditOperator, FhirAuditOperator
from airlock_tasks.stage import StageOperator, open_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline
    from airlock.review import Review
    from airlock.run import Run

APPROVE, KEEP_HELD = "Approve", "Keep held"
NOT_ASKED: dict[str, Any] = {"chosen_options": []}  # instead of an answer
REASON = Param(
    None,
    type=["null", "string"],
    title="Reason",
    description="what was looked at and why it may go downstream, without any patient's data: it is kept with your "
    "name in the ledger, the report and the contract; an approval needs it",
)
REASONS = Param(
    None,
    type=["null", "array"],
    items={"type": "string"},
    title="Reason codes",
    description="approve only what is held by these reason codes and no others, one a line; empty for all",
)
NEEDS = "An approval without a reason is not taken: the question comes again, and the task's log says why."


class _ReviewOperator(HITLOperator):
    """Waits for a person's answer, without a slot; asks nothing when nothing waits for it.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is; its ``review`` says who is asked, and for how long.
    subject, body
        Of the form.
    form
        What the form asks for besides the choice.
    **kwargs
        Of :class:`airflow.sdk.BaseOperator`.
    """

    def __init__(
        self,
        *,
        pipeline: ImagingPipeline | ClinicalPipeline,
        subject: str,
        body: str,
        form: dict[str, Param],
        **kwargs: Any,
    ) -> None:
        if pipeline.review is None:
            raise ValueError(f"pipeline {pipeline.name!r} asks nobody: it has no review section")
        super().__init__(
            subject=subject,
            body=f"For: {pipeline.review.by}.\n\n{body}",
            options=[APPROVE, KEEP_HELD],
            defaults=[KEEP_HELD],
            response_timeout=timedelta(hours=pipeline.review.timeout_hours),
            # Airflow hands the DAG's params to every operator; those of the form take their place.
            **(kwargs | {"params": form}),
        )
        self.pipeline = pipeline
        self.form = form

    @abstractmethod
    def ask(self, run: Run[Any]) -> dict[str, int]:
        """Keep what the question is about; return how many subjects wait for the answer, by reason code."""

    def execute(self, context: Context) -> Any:
        """Ask, unless nothing waits for it."""
        # The form's own params stand among the run's here.
        of_the_run = {name: value for name, value in context["params"].items() if name not in self.form}
        run = open_run(self.pipeline, cast("Context", {**context, "params": of_the_run}))
        with run.ledger:
            waiting = self.ask(run)
        self.log.info("waiting for a review, by reason code: %s", waiting)
        if not waiting:
            return NOT_ASKED
        asked = "\n".join(f"- {code}: {number}" for code, number in waiting.items())
        self.body = f"{self.body}\n\nWaiting when it was first asked, by reason code:\n\n{asked}\n\n{NEEDS}"
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the answer.

        Raises
        ------
        ReviewError
            If it does not say enough; nothing is released, and the next try asks again.
        """
        from airlock.review import check_answer

        answer = super().execute_complete(context, event)
        check_answer(_review(answer), _reasons(answer))
        return answer

    def validate_params_input(self, params_input: Mapping[str, Any]) -> None:
        """Refuse what the form does not ask for; a field that is left out is empty.

        Airflow's own refusal repeats what the person wrote, and it would stand in the task's log.

        Raises
        ------
        ReviewError
            With the field.
        """
        from airlock.review import ReviewError

        unknown = len(set(params_input) - set(self.form))
        if unknown:
            raise ReviewError(f"the answer has {unknown} fields that are not in the form: use {', '.join(self.form)}")
        for name, param in self.form.items():
            try:
                param.resolve(params_input.get(name))
            except ParamValidationError:
                types = " or ".join(param.schema["type"])
                raise ReviewError(f"{name} of the answer is of another type than {types}: correct it") from None


class ReviewOperator(_ReviewOperator):
    """Asks about studies, patients and files that the audit holds for findings that a person may release.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    **kwargs
        Of :class:`airflow.sdk.BaseOperator`.
    """

    def __init__(self, *, pipeline: ImagingPipeline | ClinicalPipeline, **kwargs: Any) -> None:
        super().__init__(
            pipeline=pipeline,
            subject=f"{pipeline.name}: release what the audit holds?",
            body="What each reason code means is in docs/reasons.md; what is held is in the run's dispositions.csv, "
            "beside its report: {{ (ti.xcom_pull(task_ids='audit') or {}).get('report_uri') }}",
            form={"reason": REASON, "reasons": REASONS},
            **kwargs,
        )

    def ask(self, run: Run[Any]) -> dict[str, int]:
        """Keep what the question is about."""
        from airlock.review import record_question

        return record_question(run)


class ConvertedReviewOperator(_ReviewOperator):
    """Asks about what was converted, all of which waits for it.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    audited_by
        The task whose counts are shown.
    **kwargs
        Of :class:`airflow.sdk.BaseOperator`.
    """

    def __init__(self, *, pipeline: CcdaPipeline, audited_by: str, **kwargs: Any) -> None:
        counts = f"(ti.xcom_pull(task_ids='{audited_by}') or {{}})"
        super().__init__(
            pipeline=pipeline,
            subject=f"{pipeline.name}: release what was converted from C-CDA?",
            body=(
                "The conversion is a preview of AWS's and its output needs clinical review. "
                f"Files: {{{{ {counts}.get('arrivals') }}}}. Resources: {{{{ {counts}.get('resources') }}}}. "
                f"By disposition: {{{{ {counts}.get('dispositions') }}}}.\n\n"
                f"Report: {{{{ {counts}.get('report_uri') }}}}"
            ),
            form={"reason": REASON},
            **kwargs,
        )

    def ask(self, run: Run[Any]) -> dict[str, int]:
        """Keep what the question is about."""
        from airlock.ccda.release import record_question
        from airlock.reasons import Reason

        waiting = record_question(run)
        return {str(Reason.AWAITING_REVIEW): waiting} if waiting else {}


class _ReleaseOperator(StageOperator):
    """Records a person's answer in the ledger and audits the run again with it; the earlier audit stands without one.

    Parameters
    ----------
    answered_by
        The review task.
    audited_by
        The task whose audit the answer is about.
    **kwargs
        Of :class:`StageOperator`.
    """

    tells = False

    def __init__(self, *, answered_by: str = "review", audited_by: str = "audit", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answered_by = answered_by
        self.audited_by = audited_by

    def run_stage(self, run: Run[Any], context: Context) -> dict[str, Any]:
        """Return the last audit's summary.

        Raises
        ------
        AirflowFailException
            If more waits now than was asked about.
        """
        from airlock.review import ReviewError, record_review

        answer = _answer(context, self.answered_by)
        released = 0
        if answer["chosen_options"]:
            try:
                released = record_review(run, _review(answer), _reasons(answer))
            except ReviewError as error:
                raise AirflowFailException(str(error)) from None
        self.log.info("released by a person: %d", released)
        if released:
            return cast("dict[str, Any]", super().run_stage(run, context))  # type: ignore[safe-super]
        return cast("dict[str, Any]", context["ti"].xcom_pull(task_ids=self.audited_by))


class ReleaseOperator(_ReleaseOperator, AuditOperator):
    """The same for studies."""


class FhirReleaseOperator(_ReleaseOperator, FhirAuditOperator):
    """The same for patients and files of FHIR resources."""


class ConvertedReleaseOperator(ConvertedAuditOperator):
    """Records a person's answer to what was converted, in the ledger too, and audits the run again with it.

    Where nobody was asked, an earlier answer stands.

    Parameters
    ----------
    answered_by
        The review task.
    **kwargs
        Of :class:`ConvertedAuditOperator`.
    """

    tells = False

    def __init__(self, *, answered_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answered_by = answered_by

    def run_stage(self, run: Run[Any], context: Context) -> dict[str, Any]:
        """Record the answer and audit again.

        Raises
        ------
        AirflowFailException
            If more waits now than was asked about.
        """
        from airlock.ccda.release import record_review
        from airlock.review import ReviewError

        answer = _answer(context, self.answered_by)
        if answer["chosen_options"]:
            try:
                record_review(run.within(""), _review(answer))
            except ReviewError as error:
                raise AirflowFailException(str(error)) from None
        return super().run_stage(run, context)


def _answer(context: Context, task_id: str) -> dict[str, Any]:
    """Return a review's answer; nobody has answered one that a person marked as success."""
    answer: dict[str, Any] | None = context["ti"].xcom_pull(task_ids=task_id)
    return NOT_ASKED if answer is None else answer


def _reasons(answer: dict[str, Any]) -> list[str]:
    return [str(code) for code in (answer.get("params_input") or {}).get("reasons") or ()]


def _review(answer: dict[str, Any]) -> Review:
    from airlock.review import Review

    person = answer.get("responded_by_user") or {}
    return Review(
        approved=answer["chosen_options"] == [APPROVE],
        person=str(person.get("name") or person.get("id") or ""),
        why=str((answer.get("params_input") or {}).get("reason") or ""),
        answered_at=str(answer.get("responded_at") or ""),
    )
