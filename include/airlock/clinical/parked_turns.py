"""When a parked resource that a run has taken in waits for its turn: the contents of a resource come one by one.

A parked resource has no file that would come again. So where a file is quarantined for a while, it stays parked. Where
one has waited too long, what was listed waits for it, as if it were parked.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.parked import find_body
from airlock.clinical.verdicts import WITHIN_DELIVERY, decide_where, select_accepted
from airlock.ledger.open_resources import scope
from airlock.reasons import Reason
from airlock.records import Verdict
from airlock.stages.content_order import decide_order, list_clocks, read_clock
from airlock.stages.resources import IDENTITY, UNIT

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run

_RESOURCE = list(IDENTITY)
_IN_FLIGHT = 16  # bodies that are looked for at a time


def is_of(taken: pl.DataFrame) -> pl.Expr:
    """Return whether a unit is one of those that the run has taken in (`records.TAKEN`)."""
    return pl.col("arrival_id").is_in(taken["arrival_id"].unique().implode())


def let_unread_wait(
    run: Run[ClinicalPipeline], units: pl.DataFrame, taken: pl.DataFrame, whole: pl.Series
) -> pl.DataFrame:
    """Return units; those of an object that was not read as a whole wait, whatever the reason was.

    They have no names then: what the ledger has of them stays as it is. What a redrive takes is not in the ledger any
    more, and does not wait.
    """
    if taken.is_empty() or run.redrive is not None:
        return units
    unread = is_of(taken) & ~pl.col("arrival_id").is_in(whole.implode())
    marked = units.with_columns(
        verdict=pl.when(unread).then(pl.lit(Verdict.PARK.value)).otherwise("verdict"),
        reason=pl.when(unread).then(pl.lit(str(Reason.WAITING_FOR_TURN))).otherwise("reason"),
        detail=pl.when(unread).then("reason").otherwise("detail"),
    )
    names = (*IDENTITY, "content_digest")
    return marked.with_columns(pl.when(~unread).then(name).alias(name) for name in names)


def let_twins_wait(run: Run[ClinicalPipeline], units: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Let a parked resource wait while the run brings other content of it, even if that is newer: it may not come in.

    So the contents of a resource come one after the other, and each is compared with what came of the one before. What
    has waited too long comes first, so that no turn is put off for ever; then what was listed, then the newest.
    """
    accepted = select_accepted(units)
    own = accepted.filter(is_of(taken))
    if own.is_empty():
        return units
    ended, newest = taken.filter("has_ended"), [read_clock(name) for name in list_clocks(run.pipeline.order)]
    candidates = accepted.join(own.select(_RESOURCE).unique(), on=_RESOURCE, how="semi", maintain_order="left")
    rows = candidates.join(ended.select(*UNIT, late=pl.lit(value=True)), on=[*UNIT], how="left", maintain_order="left")
    late = pl.col("late").fill_null(value=False)
    turns = rows.sort([late, ~is_of(taken), *newest], descending=True, nulls_last=True, maintain_order=True)
    first = turns.unique(_RESOURCE, keep="first", maintain_order=True)
    first = first.select(*_RESOURCE, first="content_digest", is_late=late)
    others = candidates.join(first, on=_RESOURCE).filter(pl.col("content_digest") != pl.col("first"))
    waits = pl.col("row").is_in(others.filter(is_of(taken) | pl.col("is_late"))["row"].implode())
    detail = pl.lit("other content of it comes first")
    return decide_where(units, waits, Verdict.PARK, Reason.WAITING_FOR_TURN, detail)


def let_claimed_wait(units: pl.DataFrame, taken: pl.DataFrame, claimed: pl.Expr) -> pl.DataFrame:
    """Let parked resources wait that another run has claimed: no file of theirs would come again."""
    detail = pl.lit("another run has claimed it")
    return decide_where(units, claimed & is_of(taken), Verdict.PARK, Reason.WAITING_FOR_TURN, detail)


def let_taken_count(run: Run[ClinicalPipeline], units: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Return units; where the run brings the content of a parked one again, that one counts, and as of the newest copy.

    Otherwise content that is sent again every night would begin to wait anew each time.
    """
    accepted, content = select_accepted(units), [*_RESOURCE, "content_digest"]
    newest = [read_clock(name) for name in list_clocks(run.pipeline.order)]
    own = accepted.filter(is_of(taken)).select(content).unique()
    copies = accepted.join(own, on=content, how="semi", maintain_order="left")
    copies = copies.sort(newest, descending=True, nulls_last=True, maintain_order=True)
    clocks = copies.unique(content, keep="first", maintain_order=True).select(*content, newest_clock="clock")
    again = pl.col("row").is_in(copies.filter(~is_of(taken))["row"].implode())
    detail = pl.lit(WITHIN_DELIVERY)
    counted = decide_where(units, again, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, detail)
    joined = counted.join(clocks, on=content, how="left", maintain_order="left")
    return joined.with_columns(clock=pl.coalesce("newest_clock", "clock")).drop("newest_clock")


def leave_to_parked(run: Run[ClinicalPipeline], units: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Return units; content that would wait is a duplicate if the pipeline has parked it already.

    So it does not begin to wait anew, and the clock of the newer file counts for what waits. Where the copy of what
    waits is gone or was changed, this content waits in its place.
    """
    waiting = units.filter((pl.col("verdict") == Verdict.PARK) & ~is_of(taken))
    if waiting.is_empty():
        return units
    datastore, pipeline = run.pipeline.datastore_id, run.pipeline.name
    copies = run.ledger.find_copies(datastore, pipeline, waiting.select(_RESOURCE))
    itself = (pl.col("origin_id") == pl.col("arrival_id")) & (pl.col("origin_line") == pl.col("line"))
    same = _drop_lost(run, waiting.join(copies, on=[*_RESOURCE, "content_digest"]).filter(~itself))
    newer = decide_order(same, run.pipeline.order).filter(pl.col("order_verdict") == Verdict.ACCEPT)
    if newer.height and not run.plan_only:
        with run.ledger.at_once(scope(datastore), keep_first=True) as ledger:  # a second try finds nothing to confirm
            ledger.confirm_parked(datastore, pipeline, newer)
    again = pl.col("row").is_in(same["row"].implode())
    return units.with_columns(
        verdict=pl.when(again).then(pl.lit(Verdict.DUPLICATE.value)).otherwise("verdict"),
        reason=pl.when(again).then(pl.lit(str(Reason.DUPLICATE_SAME_CONTENT))).otherwise("reason"),
        detail=pl.when(again).then(pl.lit("it waits already")).otherwise("detail"),
    )


def _drop_lost(run: Run[ClinicalPipeline], copies: pl.DataFrame) -> pl.DataFrame:
    """Return copies (``body_uri``) without those whose body is gone or was changed."""
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        is_there = list(pool.map(lambda uri: find_body(run.s3, uri) is not None, copies["body_uri"]))
    return copies.filter(pl.Series(is_there, dtype=pl.Boolean))
