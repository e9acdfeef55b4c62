"""A study by its key, as triage links to it: the same as Find shows, by an address without an identifier."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from airlock.ledger.notes import LONGEST, SCOPE
from airlock_console.find import look_up
from airlock_console.responses import base_of, form_of, page
from airlock_console.rights import FromOwnPage, Me, OneDag, sources_of

router = APIRouter()
_KEY = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")  # of a study, or of an arrival
_NOT_A_KEY = "This is not a study key or an arrival id. Look for it in Find."
_MAY_NOT_WRITE = "You may not write notes for this pipeline."


def need_key(key: str) -> str:
    """Return a study key or an arrival id of an address; another text is not found."""
    if not _KEY.fullmatch(key):
        raise HTTPException(404, _NOT_A_KEY)
    return key


Key = Annotated[str, Depends(need_key)]


@router.get("/studies/{dag_id}/{key}")
def study(request: Request, dag_id: OneDag, key: Key, me: Me) -> Response:
    """Return what is known of a study or an arrival, masked."""
    return _show(request, dag_id, key, me, None)


@router.post("/studies/{dag_id}/{key}", dependencies=[FromOwnPage])
def reveal_study(
    request: Request, dag_id: OneDag, key: Key, me: Me, form: Annotated[dict[str, str], Depends(form_of)]
) -> Response:
    """Return the same with identifiers, for a reason that goes to the decision log."""
    return _show(request, dag_id, key, me, form)


@router.post("/studies/{dag_id}/{key}/notes", dependencies=[FromOwnPage])
def write_note(
    request: Request, dag_id: OneDag, key: Key, me: Me, form: Annotated[dict[str, str], Depends(form_of)]
) -> Response:
    """Add a note about a study, for the next person who opens it."""
    sources = sources_of(request)
    if not sources.rights.may_change(me.user, dag_id):
        raise HTTPException(403, _MAY_NOT_WRITE)
    note = form.get("note", "").strip()
    if not note or len(note) > LONGEST:
        raise HTTPException(422, f"Write a note of at most {LONGEST} characters.")
    sources.decide(dag_id, lambda ledger: ledger.write_note(dag_id, key, note, me.name), SCOPE)
    return RedirectResponse(f"{base_of(request)}/studies/{dag_id}/{key}", status_code=303)


def _show(request: Request, dag_id: str, key: str, me: Me, form: dict[str, str] | None) -> Response:
    found, allowed = look_up(request, me, key, form)
    if found is None:
        raise HTTPException(404, "The ledger knows nothing of this study.")
    sources = sources_of(request)
    with sources.ledger().page() as ledger:
        reveals, notes = ledger.reveals_of(me.pipelines, key), ledger.notes_of(me.pipelines, key)
        reviews = ledger.reviews_of(me.pipelines, key)
    values: dict[str, Any] = {"answer": found, "dag_id": dag_id, "key": key, "reveals": reveals, "notes": notes}
    values |= {"reviews": reviews}
    values |= {"may_reveal": allowed, "may_change": sources.rights.may_change(me.user, dag_id)}
    return page(request, "study.html", "triage", me, now=sources.now(), **values)
