"""Verdicts in a frame of arrivals: a decision, once made, stands, and later rules see only what is still accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.records import Verdict

if TYPE_CHECKING:
    from airlock.reasons import Reason

DECISION = ("verdict", "reason", "detail", "duplicate_of")
IS_ACCEPTED = pl.col("verdict") == Verdict.ACCEPT


def filter_accepted(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the arrivals that are accepted so far."""
    return rows.filter(IS_ACCEPTED)


def decide(
    rows: pl.DataFrame,
    where: pl.Expr,
    verdict: Verdict,
    reason: Reason,
    detail: pl.Expr,
    *,
    duplicate_of: pl.Expr | None = None,
    among: pl.Expr = IS_ACCEPTED,
) -> pl.DataFrame:
    """Return the rows with this decision on the arrivals that meet the condition, among those that are accepted."""
    where = (where & among).fill_null(value=False)
    return rows.with_columns(
        verdict=pl.when(where).then(pl.lit(verdict)).otherwise("verdict"),
        reason=pl.when(where).then(pl.lit(str(reason))).otherwise("reason"),
        detail=pl.when(where).then(detail).otherwise("detail"),
        duplicate_of=pl.when(where).then(duplicate_of).otherwise("duplicate_of")
        if duplicate_of is not None
        else pl.col("duplicate_of"),
    )
