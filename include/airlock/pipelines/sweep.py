"""``sweep`` of a pipeline file: when everything below the source is compared with the ledger, and what is taken in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from airlock.pipelines.cron import check_cron
from airlock.pipelines.settings import Settings

LEAST_TAKEN = 10_000
SHARE_TAKEN = 0.01


class Sweep(Settings):
    """The comparison of everything below the source with the ledger, whatever its date."""

    cron: Annotated[str, AfterValidator(check_cron)] | None = Field(
        None,
        description="when the DAG <name>__sweep runs, in schedule.timezone; null: the pipeline gets no sweep DAG, and "
        "a person starts sweeps with airlock sweep",
    )
    take_at_most: int | None = Field(
        None,
        ge=0,
        le=10_000_000,
        description="overdue objects that a sweep takes in without asking; null: 1 % of the pipeline's arrivals, at "
        "least 10,000; 0: it always asks",
    )
    new_folders: Literal["ask", "take"] = Field(
        "ask",
        description="overdue objects below a first folder from which no arrival has come: ask a person, or take them "
        "in; take fits a source in which each patient or study has a first folder of its own",
    )
    answer_hours: float = Field(
        72, gt=0, le=30 * 24, description="how long a sweep waits for an answer; then nothing is taken in"
    )
