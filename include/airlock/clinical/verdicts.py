"""The units that validate decides on: their columns, and decisions on those that are still accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.records import VERDICTS
from airlock.records import Verdict, schema

if TYPE_CHECKING:
    from airlock.reasons import Reason

# A unit's row: the number of its partition in the order of the delivery, and its number there.
ROW_BITS = 32
UNITS = schema({"row": pl.Int64}, VERDICTS, {"clock": pl.String})  # of `stages.content_order`
IN_ORDER = pl.col("row") // 2**ROW_BITS
WITHIN_DELIVERY = "within the delivery"  # the detail of a duplicate


def select_accepted(units: pl.DataFrame) -> pl.DataFrame:
    """Return the units that no rule has stopped yet."""
    return units.filter(pl.col("verdict") == Verdict.ACCEPT)


def is_stopped() -> pl.Expr:
    """Return whether a unit is set aside, by its ``verdict``: quarantined, or parked for now."""
    return pl.col("verdict").is_in([Verdict.QUARANTINE.value, Verdict.PARK.value])


def decide_where(
    units: pl.DataFrame, where: pl.Expr, verdict: Verdict, reason: Reason, detail: pl.Expr
) -> pl.DataFrame:
    """Return units with this verdict where the condition holds and the unit is still accepted."""
    hit = (pl.col("verdict") == Verdict.ACCEPT) & where.fill_null(value=False)
    return units.with_columns(
        verdict=pl.when(hit).then(pl.lit(verdict.value)).otherwise("verdict"),
        reason=pl.when(hit).then(pl.lit(str(reason))).otherwise("reason"),
        detail=pl.when(hit).then(detail).otherwise("detail"),
    )


def stop_rows(
    units: pl.DataFrame, findings: pl.DataFrame, reason: Reason, verdict: Verdict = Verdict.QUARANTINE
) -> pl.DataFrame:
    """Quarantine or park the units of these rows (``row``), with the ``finding`` about each as detail."""
    units = units.join(findings, on="row", how="left", maintain_order="left")
    finding = pl.col("finding")
    return decide_where(units, finding.is_not_null(), verdict, reason, finding).drop("finding")
