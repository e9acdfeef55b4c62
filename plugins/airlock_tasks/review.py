"""Review: a person decides, in Airflow's own form, on what is held; and what the answer does.

Airflow's form has no buttons to press before a reason is written; its REST API takes any answer. An answer that cannot
be taken opens the question again, in the same try. Airflow keeps a question as it was first asked, its text and its
users, whatever a later try says; so the form tells beforehand what an approval needs.
"""

from __future__ import annotations

from abc import abstractmethod
from copy import copy
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError, TaskAwaitingInput
from airflow.sdk.execution_time.hitl import upsert_hitl_detail
from airflow.sdk.timezone import utcnow

from airlock_tasks.audit import AuditOperator, ConvertedAuditOperator, FhirAuditOperator
from airlock_tasks.stage import StageOperator, open_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline
    from airlock.run import Run
    from airlock.stages.review import Review

APPROVE, KEEP_HELD = "Approve", "Keep held"
NOT_ASKED: dict[str, Any] = {"chosen_options": []}  # instead of an answer
REASON = Param(
    None,
    type=["null", "string"],
    title="Reason",
    description="Why this may go downstream, or stays held, and what was looked at. Write no patient's data: an "
    "approval's reason is kept with your name in the ledger, the report and the contract.",
)
REASONS = Param(
    None,
    type=["null", "array"],
    items={"type": "string"},
    title="Reason codes",
    description="Approve only what is held by these reason codes and no others, one a line. Empty: all.",
)
NEEDS = (
    "**Approve needs a reason.** An answer without one is rejected. This question is then open again, and the task's "
    "log says why."
)


class _ReviewOperator(HITLOperator):
    """Waits for a person's answer, without a slot; asks nothing when nothing waits for it.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is; its ``review`` says who is asked, and for how long.
    audited_by
        The task whose audit the question is about.
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
        audited_by: str,
        subject: str,
        body: str,
        form: dict[str, Param],
        **kwargs: Any,
    ) -> None:
        if pipeline.review is None:
            raise ValueError(f"pipeline {pipeline.name!r} asks nobody: it has no review section")
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
            # Airflow hands the DAG's params to every operator; those of the form take their place.
            **(kwargs | {"params": form}),
        )
        self.pipeline = pipeline
        self.audited_by = audited_by
        self.form = form

    @abstractmethod
    def ask(self, run: Run[Any]) -> dict[str, int]:
        """Keep what the question is about; return how many subjects wait for the answer, by reason code."""

    @abstractmethod
    def describe(self, waiting: dict[str, int], audited: dict[str, Any]) -> str:
        """Return what waits for the answer and where its report is, in the words of the form."""

    @property
    def serialized_params(self) -> dict[str, dict[str, Any]]:
        """The fields as Airflow's form gets them: its buttons are grey while a field that cannot be null is empty.

        The params themselves allow null: Airflow checks their defaults before the task starts.
        """
        from airlock.words import LONGEST

        fields = super().serialized_params
        fields["reason"]["schema"] = fields["reason"]["schema"] | {"type": "string", "maxLength": LONGEST}
        return fields

    def execute(self, context: Context) -> Any:
        """Ask, unless nothing waits for it."""
        # The form's own params stand among the run's here.
        of_the_run = {name: value for name, value in context["params"].items() if name not in self.form}
        run = open_run(self.pipeline, cast("Context", {**context, "params": of_the_run}))
        with run.ledger:
            waiting = self.ask(run)
        if not waiting:
            self.log.info("Nothing waits for a review.")
            return NOT_ASKED
        counts = ", ".join(f"{code} {number}" for code, number in waiting.items())
        self.log.info("These wait for a review, by reason code: %s.", counts)
        audited = context["ti"].xcom_pull(task_ids=self.audited_by) or {}
        self.body = f"{self.body}\n\n{self.describe(waiting, audited)}\n\n{NEEDS}"
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the answer, or open the question again if the answer cannot be taken; nothing is released then."""
        from airlock.stages.review import ReviewError, check_answer

        try:
            answer = super().execute_complete(context, event)
            check_answer(_review(answer), _reasons(answer))
        except ReviewError as error:
            self.log.warning("The answer is rejected. %s The question is open again.", error)
            self._reopen(context)
        return answer

    def _reopen(self, context: Context) -> NoReturn:
        """Have Airflow forget the answer and wait for another one, until the time that was set for the first."""
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=self.options,
            subject=self.subject,
            body=self.body,
            defaults=self.defaults,
            params=self.serialized_params,
            assigned_users=self.assigned_users,
        )
        # start_date is that of the try's first process: when the question was asked.
        left = context["ti"].start_date + self.answer_within - utcnow()
        raise TaskAwaitingInput(method_name="execute_complete", timeout=max(left, timedelta(seconds=1)))

    def validate_params_input(self, params_input: Mapping[str, Any]) -> None:
        """Refuse a value that the form does not ask for; a field that is left out or null is empty.

        Airflow's own refusal repeats what the person wrote, and it would stand in the task's log.

        Raises
        ------
        ReviewError
            With the field.
        """
        from airlock.stages.review import ReviewError

        given = {name for name, value in params_input.items() if value is not None}
        unknown = len(given - set(self.form))
        if unknown:
            raise ReviewError(f"The answer has {unknown} fields that are not in the form: use {', '.join(self.form)}.")
        for name, param in self.form.items():
            try:
                copy(param).resolve(params_input.get(name))  # which keeps the value in the field
            except ParamValidationError:
                types = " or ".join(param.schema["type"])
                raise ReviewError(f"{name} of the answer is of another type than {types}.") from None


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
            audited_by="audit",
            subject=f"{pipeline.name}: release what the audit holds?",
            body="docs/reasons.md explains each reason code, and docs/review.md what you can decide.",
            form={"reason": REASON, "reasons": REASONS},
            **kwargs,
        )

    def ask(self, run: Run[Any]) -> dict[str, int]:
        """Keep what the question is about."""
        from airlock.stages.review import record_question

        return record_question(run)

    def describe(self, waiting: dict[str, int], audited: dict[str, Any]) -> str:
        """Return how many subjects wait, by reason code."""
        counts = "\n".join(f"- {code}: {number}" for code, number in waiting.items())
        return (
            f"Held when this question was first asked, by reason code:\n\n{counts}\n\n"
            f"The files are listed in {audited.get('dispositions_uri')}."
        )


_VERBS = {  # of a disposition: for one resource, and for several
    "released": ("is released", "are released"),
    "held": ("is held for another reason", "are held for other reasons"),
    "quarantined": ("was rejected", "were rejected"),
    "failed": ("failed", "failed"),
    "duplicate": ("is a duplicate", "are duplicates"),
    "ignored": ("was ignored", "were ignored"),
}


def _count_in_words(waiting: int, dispositions: Mapping[str, int]) -> str:
    """Return how many resources wait for an answer, and how many others have each disposition."""
    wait = "1 resource waits" if waiting == 1 else f"{waiting} resources wait"
    others = {**dispositions, "held": dispositions.get("held", 0) - waiting}
    said = [f"{number} {verbs[number > 1]}" for name, verbs in _VERBS.items() if (number := others.get(name, 0)) > 0]
    return f"{wait} for you. {', '.join(said)}{'.' if said else ''}".rstrip()


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
        super().__init__(
            pipeline=pipeline,
            audited_by=audited_by,
            subject=f"{pipeline.name}: release what was converted from C-CDA?",
            body="AWS's conversion is a preview, and its output needs clinical review.",
            form={"reason": REASON},
            **kwargs,
        )

    def ask(self, run: Run[Any]) -> dict[str, int]:
        """Keep what the question is about."""
        from airlock.ccda.release import record_question
        from airlock.reasons import Reason

        waiting = record_question(run)
        return {str(Reason.AWAITING_REVIEW): waiting} if waiting else {}

    def describe(self, waiting: dict[str, int], audited: dict[str, Any]) -> str:
        """Return how many resources wait, and what became of the others."""
        (number,) = waiting.values()
        counts = _count_in_words(number, audited.get("dispositions") or {})
        return f"{counts}\n\nReport: {audited.get('report_uri')}"


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
        from airlock.stages.review import ReviewError, record_review

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
        from airlock.stages.review import ReviewError

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
    from airlock.stages.review import Review

    person = answer.get("responded_by_user") or {}
    return Review(
        approved=answer["chosen_options"] == [APPROVE],
        person=str(person.get("name") or person.get("id") or ""),
        why=str((answer.get("params_input") or {}).get("reason") or ""),
        answered_at=str(answer.get("responded_at") or ""),
    )
