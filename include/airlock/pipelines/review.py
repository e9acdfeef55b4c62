"""``review:`` of a pipeline file: who answers when the gate holds, and when they are reminded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from airlock.pipelines.cron import check_cron
from airlock.pipelines.settings import Settings

OnHold = Literal["hold", "review"]
ON_HOLD = "if the gate holds a subject: hold keeps it held, review also asks people, see docs/review.md; no run waits"
GROUP = "group:"  # how the name of a group begins among the people who may answer
_TIMEOUT = (
    "review.timeout_hours is gone: no run waits for a review, and what nobody answers stays held. Remove it; "
    "remind_hours and escalate_hours say when people are reminded"
)

Person = Annotated[str, Field(min_length=1, pattern=r"^[^,]+$")]


class Review(Settings):
    """The people who decide on held or converted data before it goes downstream."""

    by: str = Field(min_length=3, description="name of the team that answers the review")
    assignees: tuple[Person, ...] = Field(
        (),
        description="who may answer: ids of Airflow users, or group:name for a role or group of the auth manager; if "
        "empty, everybody who may answer questions of the pipeline's runs",
    )
    deputies: tuple[Person, ...] = Field(
        (), description="who may answer too, and is named when reviews are escalated; written like assignees"
    )
    remind_hours: float = Field(24, gt=0, description="age of an unanswered review at which its team is reminded")
    escalate_hours: float = Field(
        72, gt=0, description="age of an unanswered review at which the deputies are told; it stays held all the same"
    )
    schedule: Annotated[str, AfterValidator(check_cron)] = Field(
        "@hourly",
        description="cron of the DAG <name>__review, which reminds people and releases what they have approved; the "
        "console and airlock review answer start it at once, too",
    )

    @model_validator(mode="before")
    @classmethod
    def _rename_users(cls, given: Any) -> Any:
        """Rename ``users``, the old name of ``assignees``, and say what became of ``timeout_hours``."""
        if not isinstance(given, dict):
            return given
        if "timeout_hours" in given:
            raise ValueError(_TIMEOUT)
        if {"users", "assignees"} <= given.keys():
            raise ValueError("assignees is given twice, because users is its old name: remove users")
        return {"assignees" if name == "users" else name: value for name, value in given.items()}

    @property
    def users(self) -> tuple[str, ...]:
        """The ids of the users who may answer; empty if groups may, whose members only the auth manager knows."""
        named = self.assignees + self.deputies if self.assignees else ()
        return () if any(one.startswith(GROUP) for one in named) else named

    def lets_answer(self, names: set[str]) -> bool:
        """Return whether somebody may answer.

        Parameters
        ----------
        names
            The person's id, their name, and ``group:name`` for each of their groups.
        """
        return not self.assignees or not names.isdisjoint(self.assignees + self.deputies)


def check_review(on_hold: OnHold, review: Review | None) -> None:
    """Refuse a pipeline that asks for reviews but names no reviewers.

    Raises
    ------
    ValueError
        With the missing field.
    """
    if on_hold == "review" and review is None:
        raise ValueError("audit.on_hold: review needs reviewers: name them in review.by, or set on_hold to hold")
