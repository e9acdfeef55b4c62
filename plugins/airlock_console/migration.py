"""Migration: the archive against its census, by site and month; the forecast; and the statement for a cut-over."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from airlock.pipelines import ImagingPipeline
from airlock.stages.pages.charts import fan
from airlock.stages.pages.costs import estimate_cost
from airlock.stages.pages.medians import count_nights
from airlock.stages.pages.migration import conclude, measure
from airlock_console.responses import page
from airlock_console.rights import Me, OneDag, sources_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from markupsafe import Markup

    from airlock.stages.pages.costs import Cost
    from airlock.stages.pages.migration import Progress
    from airlock_console.sources import Sources

router = APIRouter()
LOOK_BACK = timedelta(days=400)


@router.get("/migration")
def migration(request: Request, me: Me) -> Response:
    """Return the progress of every pipeline."""
    found, sources = _measure(request, me.pipelines), sources_of(request)
    with sources.ledger().page() as ledger:
        sweeps, undecided = ledger.last_sweeps(me.pipelines), ledger.undecided_now(me.pipelines)
    changes = {name for name in me.pipelines if sources.rights.may_change(me.user, name)}
    concluded = {
        one.pipeline: conclude(one, sweeps.get(one.pipeline), is_undecided=one.pipeline in undecided) for one in found
    }
    charts = {one.pipeline: _burn_up(one) for one in found}
    values: dict[str, Any] = {
        "progress": found,
        "charts": charts,
        "may_change": changes,
        "costs": _estimate_costs(sources, found),
        "sweeps": sweeps,
        "concluded": concluded,
    }
    return page(request, "migration.html", "migration", me, now=sources.now(), **values)


@router.get("/migration/{dag_id}/statement")
def statement(request: Request, dag_id: OneDag, me: Me) -> Response:
    """Return the statement of a pipeline, to print and to sign."""
    (found,), sources = _measure(request, {dag_id}), sources_of(request)
    with sources.ledger().page() as ledger:
        sweep, undecided = ledger.last_sweeps({dag_id}).get(dag_id), ledger.undecided_now({dag_id})
    is_done, sentence = conclude(found, sweep, is_undecided=bool(undecided))
    values: dict[str, Any] = {"one": found, "is_done": is_done, "sentence": sentence}
    return page(request, "statement.html", "migration", me, now=sources.now(), **values)


def _measure(request: Request, pipelines: Collection[str]) -> list[Progress]:
    sources = sources_of(request)
    now = sources.now()
    with sources.ledger().page() as ledger:
        totals = ledger.present_totals(pipelines)
        windows = ledger.totals_by_window(pipelines)
        census = ledger.latest_census(pipelines)
        nights = count_nights(ledger.nightly_totals(pipelines, now - LOOK_BACK))
    return [measure(name, totals, windows, census, nights, now=now) for name in sorted(pipelines)]


def _estimate_costs(sources: Sources, found: list[Progress]) -> dict[str, Cost]:
    """Return the costs of the pipelines whose files this server has, and whose prices are known."""
    files = sources.pipelines()
    return {
        one.pipeline: estimate_cost(one.whole, file.plan)
        for one in found
        if isinstance(file := files.get(one.pipeline), ImagingPipeline)
    }


def _burn_up(one: Progress) -> Markup:
    """Return the chart of what was decided on by day, in days since the first run of the last year."""
    ends = None
    if one.forecast is not None:
        # The chart counts days from the first run; the forecast names moments.
        soonest, latest = (
            one.days[-1] + (end - one.as_of) / timedelta(days=1) for end in (one.forecast.earliest, one.forecast.latest)
        )
        ends = soonest, latest
    title = f"{one.pipeline}: objects decided on, by day"
    return fan(one.days, one.done_by_day, float(one.whole.whole), ends, title=title)
