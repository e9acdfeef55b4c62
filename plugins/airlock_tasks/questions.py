"""Questions to people in Airflow's own form: its field for a reason, and the check and reading of an answer."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import ParamValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Param

    from airlock.stages.review import Review


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
