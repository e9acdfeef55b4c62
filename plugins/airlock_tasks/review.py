"""Review: a person decides in Airflow's own form on held data, and release applies the answer.

Airflow's form enables its buttons only after a reason is written; its REST API accepts any answer. A rejected answer
opens the question again in the same try. Airflow keeps the text and the users of a question as they were first, even if
a later try changes them; so the form says from the start that an approval needs a reason.
"""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, NoReturn, cast

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput
from airflow.sdk.execution_time.hitl import upsert_hitl_detail
from airflow.sdk.timezone import utcnow
from typing_extensions import override

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline
from airlock_tasks.audit import AuditedT, AuditOperator, BaseAuditOperator, ConvertedAuditOperator, FhirAuditOperator
from airlock_tasks.questions import check_fields, read_answer, serialize_form
from airlock_tasks.run import open_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from airlock.run import Run
    from airlock.stages.review import Review

APPROVE, KEEP_HELD = "Approve", "Keep held"
NOT_ASKED: dict[str, Any] = {"chosen_options": []}  # stands for an answer if no question was asked
REASON = Param(
    None,
    type=["null", "string"],
    title="Reason",
    description="Why this is released or stays held, and what you checked. Do not write patient data: the reason of an "
    "approval is stored with your name in the ledger, the report and the contract.",
)
REASONS = Param(
    None,
    type=["null", "array"],
    items={"type": "string"},
    title="Reason codes",
    description="Approve only studies, patients and files whose reason codes are all in this list. One code per line. "
    "Empty: all.",
)
NEEDS = (
    "**Approve needs a reason.** An answer without one is rejected. This question is then open again, and the task's "
    "log says why."
)


class _ReviewOperator(HITLOperator, Generic[AuditedT]):
    """Waits for a person's answer without using a slot; asks only if something waits for a decision.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is; its ``review`` says who is asked, and for how long.
    audited_by
        The task whose audit the question is about.
    subject, body
        Of the form.
    form
        The fields of the form besides the choice.
    **kwargs
        Of :class:`airflow.sdk.BaseOperator`.
    """

    def __init__(
        self,
        *,
        pipeline: AuditedT,
        audited_by: str,
        subject: str,
        body: str,
        form: dict[str, Param],
        **kwargs: Any,
    ) -> None:
        if pipeline.review is None:
            raise ValueError(f"Pipeline {pipeline.name!r} has no review section.")
        users = pipeline.review.users
        self.answer_within = timedelta(hours=pipeline.review.timeout_hours)
        only = f" Only these users may answer: {', '.join(users)}." if users else ""
        super().__init__(
            subject=subject,
            body=f"For: {pipeline.review.by}.{only}\n\n{body}",
            options=[APPROVE, KEEP_HELD],
            defaults=[KEEP_HELD],
            response_timeout=self.answer_within,
            assigned_users=[{"id": user, "name": user} for user in users],
            # Airflow gives the DAG's params to every operator; the form's fields replace them.
            **(kwargs | {"params": form}),
        )
        self.pipeline = pipeline
        self.audited_by = audited_by
        self.form = form

    @abstractmethod
    def record_question(self, run: Run[AuditedT]) -> dict[str, int]:
        """Record which subjects the question is about, and return how many wait for the answer, by reason code."""

    @abstractmethod
    def describe(self, waiting: dict[str, int], audited: dict[str, Any]) -> str:
        """Return the form's text: how many subjects wait for the answer, and where their report is."""

    @property
    def serialized_params(self) -> dict[str, dict[str, Any]]:
        """The fields for Airflow's form."""
        return serialize_form({name: self.params.get_param(name) for name in self.params})

    def execute(self, context: Context) -> Any:
        """Ask the question, unless nothing waits for a decision."""
        # context["params"] holds the form's fields too, which the run does not know.
        run_params = {name: value for name, value in context["params"].items() if name not in self.form}
        run = open_run(self.pipeline, cast("Context", {**context, "params": run_params}))
        with run.ledger:
            waiting = self.record_question(run)
        if not waiting:
            self.log.info("Nothing waits for a review.")
            return NOT_ASKED
        counts = ", ".join(f"{code} {number}" for code, number in waiting.items())
        self.log.info("Waiting for a review, by reason code: %s.", counts)
        audited = context["ti"].xcom_pull(task_ids=self.audited_by) or {}
        self.body = f"{self.body}\n\n{self.describe(waiting, audited)}\n\n{NEEDS}"
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the answer; if it is rejected, release nothing and open the question again."""
        from airlock.stages.review import ReviewError, check_answer

        try:
            answer = super().execute_complete(context, event)
            check_answer(_read_review(answer), _read_reason_codes(answer))
        except ReviewError as error:
            self.log.warning("The answer is rejected. %s The question is open again.", error)
            self._reopen(context)
        return answer

    def _reopen(self, context: Context) -> NoReturn:
        """Make Airflow forget the answer and wait for another, until the deadline of the first question."""
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=self.options,
            subject=self.subject,
            body=self.body,
            defaults=self.defaults,
            params=self.serialized_params,
            assigned_users=self.assigned_users,
        )
        # start_date is the start of the try's first process, which asked the question.
        left = context["ti"].start_date + self.answer_within - utcnow()
        raise TaskAwaitingInput(method_name="execute_complete", timeout=max(left, timedelta(seconds=1)))

    def validate_params_input(self, params_input: Mapping[str, Any]) -> None:
        """Refuse an answer as `check_fields` does."""
        check_fields(self.form, params_input)


class ReviewOperator(_ReviewOperator[ImagingPipeline | ClinicalPipeline]):
    """Asks about held studies, patients and files whose findings a person may override.

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
            audited_by="audit",
            subject=f"{pipeline.name}: release what the audit holds?",
            body="docs/reasons.md explains each reason code, and docs/review.md what you can decide.",
            form={"reason": REASON, "reasons": REASONS},
            **kwargs,
        )

    @override
    def record_question(self, run: Run[ImagingPipeline | ClinicalPipeline]) -> dict[str, int]:
        from airlock.stages.review import record_question

        return record_question(run)

    @override
    def describe(self, waiting: dict[str, int], audited: dict[str, Any]) -> str:
        counts = "\n".join(f"- {code}: {number}" for code, number in waiting.items())
        return (
            f"Held when this question was first asked, by reason code:\n\n{counts}\n\n"
            f"The files are listed in {audited.get('dispositions_uri')}."
        )


_VERBS = {  # by disposition: for one resource, and for several
    "released": ("is released", "are released"),
    "held": ("is held for another reason", "are held for other reasons"),
    "quarantined": ("was rejected", "were rejected"),
    "failed": ("failed", "failed"),
    "duplicate": ("is a duplicate", "are duplicates"),
    "ignored": ("was ignored", "were ignored"),
    "parked": ("waits for another resource", "wait for other resources"),
}


def _count_in_words(waiting: int, dispositions: Mapping[str, int]) -> str:
    """Return how many resources wait for an answer, and how many others have each disposition."""
    wait = "1 resource waits" if waiting == 1 else f"{waiting} resources wait"
    others = {**dispositions, "held": dispositions.get("held", 0) - waiting}
    counts = [f"{number} {verbs[number > 1]}" for name, verbs in _VERBS.items() if (number := others.get(name, 0)) > 0]
    return f"{wait} for you. {', '.join(counts)}{'.' if counts else ''}".rstrip()


class ConvertedReviewOperator(_ReviewOperator[CcdaPipeline]):
    """Asks about converted resources, none of which is released without an approval.

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
        super().__init__(
            pipeline=pipeline,
            audited_by=audited_by,
            subject=f"{pipeline.name}: release the resources converted from C-CDA?",
            body="AWS's conversion is a preview, and its output needs clinical review.",
            form={"reason": REASON},
            **kwargs,
        )

    @override
    def record_question(self, run: Run[CcdaPipeline]) -> dict[str, int]:
        from airlock.ccda.release import record_question
        from airlock.reasons import Reason

        waiting = record_question(run)
        return {str(Reason.AWAITING_REVIEW): waiting} if waiting else {}

    @override
    def describe(self, waiting: dict[str, int], audited: dict[str, Any]) -> str:
        (number,) = waiting.values()
        counts = _count_in_words(number, audited.get("dispositions") or {})
        return f"{counts}\n\nReport: {audited.get('report_uri')}"


class _ReleaseOperator(BaseAuditOperator[AuditedT]):
    """Records a person's answer in the ledger and audits the run again with it.

    Where nobody was asked, the result of the earlier audit stands.

    Parameters
    ----------
    answered_by
        The review task.
    audited_by
        The task whose audit the answer is about.
    **kwargs
        Of :class:`RunOperator`.
    """

    notifies = False

    def __init__(self, *, answered_by: str = "review", audited_by: str = "audit", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answered_by = answered_by
        self.audited_by = audited_by

    def record_answer(self, run: Run[AuditedT], answer: dict[str, Any]) -> bool:
        """Record an answer, and return whether the run must be audited again."""
        from airlock.stages.review import record_review

        if not answer["chosen_options"]:
            return False
        released = record_review(run, _read_review(answer), _read_reason_codes(answer))
        self.log.info("Released by a person: %d.", released)
        return released > 0

    @override
    def run_stage(self, run: Run[AuditedT], context: Context) -> dict[str, Any]:
        """Return the last audit's result.

        Raises
        ------
        AirflowFailException
            If more data waits now than the question was about.
        """
        from airlock.stages.review import ReviewError

        # No answer is there if a person has marked the review as success.
        answer: dict[str, Any] = context["ti"].xcom_pull(task_ids=self.answered_by) or NOT_ASKED
        try:
            audit_again = self.record_answer(run, answer)
        except ReviewError as error:
            raise AirflowFailException(str(error)) from None
        if audit_again:
            return super().run_stage(run, context)
        return cast("dict[str, Any]", context["ti"].xcom_pull(task_ids=self.audited_by))


class ReleaseOperator(_ReleaseOperator[ImagingPipeline], AuditOperator):
    """Records the answer on held studies, and audits the run again with it."""


class FhirReleaseOperator(_ReleaseOperator[ClinicalPipeline], FhirAuditOperator):
    """Records the answer on held patients and files of FHIR resources, and audits the run again with it."""


class ConvertedReleaseOperator(_ReleaseOperator[CcdaPipeline], ConvertedAuditOperator):
    """Records the answer on converted resources, and audits the run again; an earlier answer stands without a new."""

    @override
    def record_answer(self, run: Run[CcdaPipeline], answer: dict[str, Any]) -> bool:
        from airlock.ccda.release import record_review

        if answer["chosen_options"]:
            record_review(run.within(""), _read_review(answer))
        return True


def _read_reason_codes(answer: dict[str, Any]) -> list[str]:
    return [str(code) for code in (answer.get("params_input") or {}).get("reasons") or ()]


def _read_review(answer: dict[str, Any]) -> Review:
    return read_answer(answer, APPROVE)
