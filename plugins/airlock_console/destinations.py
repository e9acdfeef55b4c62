"""Destinations: what waits to be sent, what was given up, and what no route takes."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from airlock_console.responses import base_of, form_of, page
from airlock_console.rights import FromOwnPage, Me, OneDag, sources_of

router = APIRouter()
log = logging.getLogger(__name__)
_MAY_NOT = "You may not change the runs of this pipeline."


@router.get("/destinations")
def destinations(request: Request, me: Me, due: int | None = None) -> Response:
    """Return the open messages by destination, and the releases that no route takes."""
    sources = sources_of(request)
    with sources.ledger().page() as ledger:
        messages = ledger.open_by_destination(me.pipelines)
        unrouted = ledger.unrouted(me.pipelines)
    queues = sources.queues(me.pipelines)
    changes = {one.pipeline for one in messages if sources.rights.may_change(me.user, one.pipeline)}
    values: dict[str, Any] = {"messages": messages, "unrouted": unrouted, "may_change": changes, "due": due}
    return page(request, "destinations.html", "destinations", me, now=sources.now(), queues=queues, **values)


@router.post("/destinations/{dag_id}/requeue", dependencies=[FromOwnPage])
def requeue(request: Request, dag_id: OneDag, me: Me, form: Annotated[dict[str, str], Depends(form_of)]) -> Response:
    """Make the messages of a pipeline to a destination due now."""
    sources = sources_of(request)
    if not sources.rights.may_change(me.user, dag_id):
        raise HTTPException(403, _MAY_NOT)
    due = sources.ledger().requeue(dag_id, form.get("destination") or None)
    log.info("%s has queued the open messages of %s again: %d are due", me.name, dag_id, due)
    return RedirectResponse(f"{base_of(request)}/destinations?due={due}", status_code=303)
