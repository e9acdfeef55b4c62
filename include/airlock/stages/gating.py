"""The gates of all kinds: the gravest of several reasons, and the stage that found a reason."""

from __future__ import annotations

import polars as pl

from airlock.reasons import PARSE_REASONS, Reason
from airlock.records import Stage

# The reasons on which a person has to decide, from the gravest, which no review can release, to the mildest.
TO_DECIDE = (
    Reason.NON_PRIMARY,
    Reason.PRIMARY_UNKNOWN,
    Reason.VERSION_ABOVE_ONE,
    Reason.IDENTITY_CHANGED,
    Reason.READ_BACK_MISMATCH,
    Reason.JOB_COUNTS_DISAGREE,
    Reason.SERVICE_WARNING,
    Reason.HEADER_CHANGED,
)
_GRAVITY = {str(reason): rank for rank, reason in enumerate(dict.fromkeys((*TO_DECIDE, *Reason)))}


def gravest_reason(unnamed: Reason) -> pl.Expr:
    """Return the gravest of a group's reasons; an absent one counts as ``unnamed``, and never as no reason."""
    reasons = pl.col("reason").fill_null(str(unnamed))
    return reasons.sort_by(reasons.replace_strict(_GRAVITY, return_dtype=pl.Int64)).first()


def reason_where(condition: pl.Expr, reason: Reason) -> pl.Expr:
    """Return the reason where the condition holds; null elsewhere."""
    return pl.when(condition).then(pl.lit(str(reason)))


def stage_before_import(*also_found_by_parse: Reason) -> pl.Expr:
    """Return the stage that found the ``reason`` of a row that was stopped before import: parse or validate."""
    by_parse = [str(reason) for reason in (*PARSE_REASONS, *also_found_by_parse)]
    parse, validate = pl.lit(Stage.PARSE.value), pl.lit(Stage.VALIDATE.value)
    return pl.when(pl.col("reason").is_in(by_parse)).then(parse).otherwise(validate)
