"""Who is asked when the gate holds, and for how long a run waits for the answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from airlock.pipelines.settings import Settings

OnHold = Literal["hold", "review"]
ON_HOLD = "what follows when the gate holds something: it stays held, or the run waits for the answer to a review"


class Review(Settings):
    """Who looks at what is held, or at what was converted, before it goes downstream."""

    by: str = Field(min_length=3, description="the team that answers the review, as people know it")
    users: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="ids of the Airflow users who may answer; empty: everybody who may change the pipeline's runs"
    )
    timeout_hours: float = Field(7 * 24, gt=0, description="a review not answered by then leaves everything held")


def check_review(on_hold: OnHold, review: Review | None) -> None:
    """Refuse a pipeline that asks for a review of nobody.

    Raises
    ------
    ValueError
        With the field that is missing.
    """
    if on_hold == "review" and review is None:
        raise ValueError("audit.on_hold: review asks people: name who answers under review.by, or set it to hold")
