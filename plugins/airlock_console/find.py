"""Find: one box for a UID, a key or an id. What a person looks for is in no address and no log: only POST answers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from airlock.ledger.reveals import SCOPE, Reveals
from airlock.stages.pages.answer import NOTHING, answer
from airlock_console.responses import form_of, page
from airlock_console.rights import FromOwnPage, Me, Reader, may_reveal, sources_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from airlock.stages.pages.answer import Answer

router = APIRouter()
LONGEST = 1_100  # characters; a key of S3 has at most 1,024 bytes, after s3:// and its bucket
NOT_ALLOWED = (
    "You may not see identifiers of this pipeline. Ask for the right 'Airlock identifiers' and the right to answer its "
    "questions."
)
NO_REASON = "Give a reason. It is written to the decision log with your name."


@router.get("/find")
def find_form(request: Request, me: Me) -> Response:
    """Return the empty box."""
    return page(request, "find.html", "find", me, answer=None, nothing=None, ask=None, may_reveal=False)


@router.post("/find", dependencies=[FromOwnPage])
def find_answer(request: Request, me: Me, form: Annotated[dict[str, str], Depends(form_of)]) -> Response:
    """Return what the ledger knows; identifiers are shown only for a reason, which goes to the decision log."""
    text = form.get("text", "").strip()
    if not text or len(text) > LONGEST:
        sentence = "Write a UID, a key or an id into the box." if not text else "That is too long to be a UID or a key."
        return page(request, "find.html", "find", me, answer=None, nothing=sentence, ask=None, may_reveal=False)
    found, allowed = look_up(request, me, text, form if "reveal" in form else None)
    nothing = NOTHING if found is None else None
    ask = None if found is None else name_again(found)
    return page(request, "find.html", "find", me, answer=found, nothing=nothing, ask=ask, may_reveal=allowed)


def look_up(
    request: Request, me: Reader, text: str, reveal: dict[str, str] | None, datastore_id: str | None = None
) -> tuple[Answer | None, bool]:
    """Return the answer about a text, and whether the person may see its identifiers.

    Parameters
    ----------
    request, me, text
        The request, the person and what they look for.
    reveal
        The form by which they ask for identifiers, with their reason; None if they do not.
    datastore_id
        The data store that is meant, if the text is a name that each has its own of.

    Raises
    ------
    HTTPException
        If they may not see identifiers, or give no reason.
    """
    ledger = sources_of(request).ledger()
    with ledger.page(stages_values=True) as reading:
        found, owed = reading.where(text, datastore_id), reading.find_owed(text)
    shown = answer(found, owed, me.pipelines, reveal=False)
    if shown is None:
        return None, False
    allowed = may_reveal(request, me, set(shown.pipelines))
    if reveal is None:
        return shown, allowed
    if not allowed:
        raise HTTPException(403, NOT_ALLOWED)
    why = reveal.get("why", "").strip()
    if not why:
        raise HTTPException(422, NO_REASON)
    subject = shown.study_keys[0] if shown.study_keys else None
    log_reveal(request, shown.pipelines, subject, me.name, why)  # before anything is shown
    return answer(found, owed, me.pipelines, reveal=True), allowed


def name_again(found: Answer) -> str | None:
    """Return the key of ours by which a form asks for the same answer; None if a person has to write it again."""
    if len(found.study_keys) == 1 and "SOPInstanceUID" not in found.known_as and "key" not in found.known_as:
        return found.study_keys[0]
    return found.files[0].arrival_id if len(found.files) == 1 else None


def log_reveal(request: Request, pipelines: Collection[str], subject: str | None, person: str, why: str) -> None:
    """Write to the decision log that a person is about to see identifiers of these pipelines."""
    for name in sorted(pipelines):
        record = partial(Reveals.log_reveal, pipeline=name, subject_key=subject, person=person, why=why)
        sources_of(request).decide(name, record, SCOPE)
