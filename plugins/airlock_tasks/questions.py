"""Questions to people in Airflow's own form: its field for a reason, and the check and reading of an answer."""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError, TaskAwaitingInput
from airflow.sdk.execution_time.hitl import upsert_hitl_detail
from airflow.sdk.timezone import utcnow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from airlock.pipelines import Pipeline
    from airlock.stages.review import Review


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A question with two answers, which a task asks while it waits without a worker slot.

    Parameters
    ----------
    yes, no
        The answers; the second one counts if nobody answers in time.
    subject
        The question's title, after the pipeline's name.
    reason
        What the field for the reason asks.
    answered_by
        The task's method that gets an answer.
    fields
        Further fields beside the choice.
    """

    yes: str
    no: str
    subject: str
    reason: str
    answered_by: str
    fields: Mapping[str, Param] = field(default_factory=dict)

    @property
    def form(self) -> dict[str, Param]:
        """The fields beside the choice."""
        text = f"{self.reason} Do not write patient data: the reason is stored with your name in the ledger."
        return {"reason": Param(None, type=["null", "string"], title="Reason", description=text), **self.fields}

    def ask(self, context: Context, pipeline: Pipeline, *lines: str, within: timedelta, **kept: Any) -> NoReturn:
        """Ask the question and wait; the method that gets the answer also gets what is *kept*."""
        self._put(context, pipeline, "\n\n".join((f"For: {_name_answerers(pipeline)}.", *filter(None, lines))))
        raise TaskAwaitingInput(method_name=self.answered_by, kwargs=kept, timeout=within)

    def read(
        self, context: Context, pipeline: Pipeline, event: dict[str, Any], *, within: timedelta, **kept: Any
    ) -> Review:
        """Return the answer of an event; if it cannot be recorded, the question is open again."""
        from airlock.stages.review import ReviewError

        try:
            return self._check(event)
        except ReviewError as error:
            self.reject(context, pipeline, str(error), within=within, **kept)

    def reject(self, context: Context, pipeline: Pipeline, why: str, *, within: timedelta, **kept: Any) -> NoReturn:
        """Reject an answer, and open the question again for the rest of its time."""
        _log.warning("The answer is rejected. %s The question is open again.", why)
        self._put(context, pipeline, None)
        left = max(context["ti"].start_date + within - utcnow(), timedelta(seconds=1))
        raise TaskAwaitingInput(method_name=self.answered_by, kwargs=kept, timeout=left) from None

    def _put(self, context: Context, pipeline: Pipeline, body: str | None) -> None:
        """Make Airflow show the question; it keeps the text of a question that it has shown before."""
        users = pipeline.review.users if pipeline.review else ()
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=[self.yes, self.no],
            subject=f"{pipeline.name}: {self.subject}",
            body=body,
            defaults=[self.no],
            params=serialize_form(self.form),
            assigned_users=[{"id": user, "name": user} for user in users],
        )

    def _check(self, event: dict[str, Any]) -> Review:
        from airlock.stages.review import ReviewError, check_answer

        chosen = event.get("chosen_options") or [self.no]
        if chosen not in ([self.yes], [self.no]):
            raise ReviewError(f"The answer has another option. Use {self.yes!r} or {self.no!r}.")
        fields = event.get("params_input") or {}
        check_fields(self.form, fields)
        when = event.get("responded_at") or datetime.now(UTC)
        review = read_answer(event | {"chosen_options": chosen, "params_input": fields, "responded_at": when}, self.yes)
        check_answer(review)
        return review


def _name_answerers(pipeline: Pipeline) -> str:
    """Return who may answer, for the text of a question."""
    review = pipeline.review
    if review is None:
        return "everybody who may change the pipeline's runs"
    only = f". Only these users may answer: {', '.join(review.users)}" if review.users else ""
    return f"{review.by}{only}"


def check_fields(form: Mapping[str, Param], answer: Mapping[str, Any]) -> None:
    """Refuse fields and types that a form does not have; a field that is missing or null is empty.

    Airflow's own check would write the person's text to the task's log.

    Raises
    ------
    ReviewError
        With the field.
    """
    from airlock.stages.review import ReviewError

    given = {name for name, value in answer.items() if value is not None}
    unknown = len(given - set(form))
    if unknown:
        raise ReviewError(f"The answer has {unknown} fields that are not in the form. Use {', '.join(form)}.")
    for name, param in form.items():
        try:
            copy(param).resolve(answer.get(name))  # resolve stores the value in the param
        except ParamValidationError:
            types = " or ".join(param.schema["type"])
            raise ReviewError(f"The field {name} of the answer must be {types}.") from None


def serialize_form(form: Mapping[str, Param]) -> dict[str, dict[str, Any]]:
    """Return the fields for Airflow's form, which disables its buttons while a field that cannot be null is empty.

    The params themselves allow null, because Airflow checks their defaults before the task starts.
    """
    from airlock.stages.person_text import LONGEST

    fields = {name: param.serialize() for name, param in form.items()}
    fields["reason"]["schema"] = fields["reason"]["schema"] | {"type": "string", "maxLength": LONGEST}
    return fields


def read_answer(answer: Mapping[str, Any], approves: str) -> Review:
    """Return a person's answer; it approves if the person has chosen this option."""
    from airlock.stages.review import Review

    person = answer.get("responded_by_user") or {}
    return Review(
        approved=answer["chosen_options"] == [approves],
        person=str(person.get("name") or person.get("id") or ""),
        why=str((answer.get("params_input") or {}).get("reason") or ""),
        answered_at=str(answer.get("responded_at") or ""),
    )
