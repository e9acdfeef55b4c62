"""Trends: rejects, sites and throughput over 30, 90 or 365 days."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response

from airlock.stages.pages.numbers import month_start
from airlock.stages.pages.reviewers import list_reviewers, sum_decisions
from airlock.stages.pages.trends import DAYS, draw
from airlock_console.responses import page
from airlock_console.rights import NOT_YOURS, Me, sources_of

router = APIRouter()


@router.get("/trends")
def trends(request: Request, me: Me, pipeline: str | None = None, days: int = 90) -> Response:
    """Return the charts of one pipeline; of the first one if none is named."""
    names = sorted(me.pipelines)
    if pipeline is not None and pipeline not in me.pipelines:
        raise HTTPException(403, NOT_YOURS)
    if days not in DAYS:
        raise HTTPException(422, "Choose 30, 90 or 365 days.")
    chosen = pipeline or next(iter(names), None)
    sources = sources_of(request)
    now = sources.now()
    if chosen is None:
        return page(request, "trends.html", "trends", me, trends=None, names=names, chosen=None, days=days, spans=DAYS)
    since, may_review = now - timedelta(days=days), sources.rights.may_review(me.user, chosen)
    with sources.ledger().page() as ledger:
        totals = ledger.nightly_totals({chosen}, since)
        decided = ledger.count_decisions(chosen, month_start(now))
        answers = ledger.answers_since(chosen, since) if may_review else []
    values: dict[str, Any] = {"trends": draw(totals, days, now), "reviewers": list_reviewers(answers)}
    values["decided"] = [sum_decisions(decided), *(decided if may_review else [])]
    values |= {"names": names, "chosen": chosen, "days": days, "spans": DAYS}
    return page(request, "trends.html", "trends", me, **values)
