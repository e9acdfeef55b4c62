"""Tonight: every pipeline in a line, and what a person does now."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from airlock.pipelines import REVIEW_SUFFIX
from airlock.stages.pages.tonight import LOOK_BACK, Facts, overview
from airlock_console.responses import page
from airlock_console.rights import Me, sources_of

router = APIRouter()


@router.get("/")
def tonight(request: Request, me: Me) -> Response:
    """Return the state of all pipelines that the person may read."""
    sources = sources_of(request)
    now, queues = sources.now(), sources.queues(me.pipelines)
    dags = sources.dags({*me.pipelines, *(f"{name}{REVIEW_SUFFIX}" for name in me.pipelines)})
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
    values: dict[str, Any] = {"overview": overview(facts, now), "dags": dags, "queues": queues}
    values["windows"] = {name: file.schedule.import_window for name, file in sources.pipelines().items()}
    return page(request, "tonight.html", "", me, now=now, **values)
