"""Tonight: every pipeline in a line, and what a person does now."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from airlock.stages.pages.tonight import LOOK_BACK, REVIEW_DAG, Facts, overview
from airlock_console.responses import page
from airlock_console.rights import Me, sources_of

router = APIRouter()


@router.get("/")
def tonight(request: Request, me: Me) -> Response:
    """Return the state of all pipelines that the person may read."""
    sources = sources_of(request)
    now, queues = sources.now(), sources.queues(me.pipelines)
    dags = sources.dags({*me.pipelines, *(f"{name}{REVIEW_DAG}" for name in me.pipelines)})
    with sources.ledger().page() as ledger:
        facts = Facts(
            pipelines=sorted(me.pipelines),
            runs=ledger.latest_runs(me.pipelines),
            totals=ledger.nightly_totals(me.pipelines, now - LOOK_BACK),
            held=ledger.held_now(me.pipelines),
            messages=ledger.open_by_destination(me.pipelines),
            owed=ledger.owed_now(me.pipelines),
            findings=ledger.open_findings(me.pipelines),
            reviews=ledger.review_groups(me.pipelines),
            parked=ledger.parked_now(me.pipelines),
            queues=queues,
            dags=dags,
        )
    found = overview(facts, now)
    return page(request, "tonight.html", "", me, overview=found, dags=dags, queues=queues, now=now)
