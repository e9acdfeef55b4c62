"""``review:`` of a pipeline file: who answers when the gate holds, and how long a run waits for the answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from airlock.pipelines.settings import Settings

OnHold = Literal["hold", "review"]
ON_HOLD = "if the gate holds a subject: hold keeps it held, review lets the run wait for the answer to a review"


class Review(Settings):
    """The people who decide on held or converted data before it goes downstream."""

    by: str = Field(min_length=3, description="name of the team that answers the review")
    users: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="ids of the Airflow users who may answer; if empty, every user who may change the pipeline's runs",
    )
    timeout_hours: float = Field(
        7 * 24, gt=0, description="everything stays held if the review is not answered by then"
    )


def check_review(on_hold: OnHold, review: Review | None) -> None:
    """Refuse a pipeline that asks for reviews but names no reviewers.

    Raises
    ------
    ValueError
        With the missing field.
    """
    if on_hold == "review" and review is None:
        raise ValueError("audit.on_hold: review needs reviewers: name them in review.by, or set on_hold to hold")
