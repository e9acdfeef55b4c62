"""When a parked resource that a run has taken in waits for its turn: the contents of a resource come one by one.

A parked resource has no file that would come again. So where a file is quarantined for a while, it stays parked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.verdicts import decide_where, select_accepted
from airlock.reasons import Reason
from airlock.records import Verdict
from airlock.stages.content_order import list_clocks, read_clock
from airlock.stages.resources import IDENTITY

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run

_RESOURCE = list(IDENTITY)


def is_of(taken: pl.DataFrame) -> pl.Expr:
    """Return whether a unit is one of those that the run has taken in (`records.TAKEN`)."""
    return pl.col("arrival_id").is_in(taken["arrival_id"].unique().implode())


def let_unread_wait(units: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Return units; an object of parked resources that could not be read waits, whatever the reason was."""
    if taken.is_empty():
        return units
    unread = is_of(taken) & pl.col("line").is_null() & pl.col("reason").is_not_null()
    return units.with_columns(
        verdict=pl.when(unread).then(pl.lit(Verdict.PARK.value)).otherwise("verdict"),
        reason=pl.when(unread).then(pl.lit(str(Reason.WAITING_FOR_TURN))).otherwise("reason"),
        detail=pl.when(unread).then("reason").otherwise("detail"),
    )


def let_twins_wait(run: Run[ClinicalPipeline], units: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Let a parked resource wait while the run brings other content of it, even if that is newer: it may not come in.

    So the contents of a resource come one after the other, and each is compared with what came of the one before. What
    was listed comes first, then the newest of what was parked.
    """
    accepted = select_accepted(units)
    own = accepted.filter(is_of(taken))
    if own.is_empty():
        return units
    newest = [read_clock(name) for name in list_clocks(run.pipeline.order)]
    candidates = accepted.join(own.select(_RESOURCE).unique(), on=_RESOURCE, how="semi", maintain_order="left")
    turns = candidates.sort([~is_of(taken), *newest], descending=True, nulls_last=True, maintain_order=True)
    first = turns.unique(_RESOURCE, keep="first", maintain_order=True).select(*_RESOURCE, first="content_digest")
    others = own.join(first, on=_RESOURCE).filter(pl.col("content_digest") != pl.col("first"))
    is_other, detail = pl.col("row").is_in(others["row"].implode()), pl.lit("other content of it comes first")
    return decide_where(units, is_other, Verdict.PARK, Reason.WAITING_FOR_TURN, detail)


def let_claimed_wait(units: pl.DataFrame, taken: pl.DataFrame, claimed: pl.Expr) -> pl.DataFrame:
    """Let parked resources wait that another run has claimed: no file of theirs would come again."""
    detail = pl.lit("another run has claimed it")
    return decide_where(units, claimed & is_of(taken), Verdict.PARK, Reason.WAITING_FOR_TURN, detail)
