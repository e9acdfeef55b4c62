"""Reviews: what waits for a person, one question or those of a reason and site, and the form that answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from airlock.ledger.reviews import ANSWERS, LEAST_OPENED, MOST_BY_ONE, ReviewAnswer
from airlock.reasons import SENTENCES
from airlock.stages.decision_log import DecisionNotKeptError
from airlock.stages.review import MOST_AT_ONCE, ReviewError, answer
from airlock_console.find import look_up
from airlock_console.responses import base_of, form_of, page
from airlock_console.rights import FromOwnPage, Me, OneDag, Reader, is_own_page, sources_of
from airlock_console.study import need_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.ledger import ReviewRecord

router = APIRouter()
NOT_ALLOWED = "You may not answer reviews of this pipeline."
_NO_FILES = (
    "This API server has no pipeline files, so it cannot keep a copy of the answer. Answer with airlock review answer."
)
LAST_NUMBER = 2**63 - 1  # of the ledger's column
_NUMBER = re.compile(r"[0-9]{1,18}")
_ANSWERS = {"approve": True, "keep": False}
_CHANGED = "What this review asks has changed since you opened it. Your answer is not recorded: open it again."


@router.get("/reviews/{dag_id}/{number}")
def review(request: Request, dag_id: OneDag, number: int, me: Me) -> Response:
    """Return a review and its form; the decision log keeps that somebody who may answer has opened it."""
    sources = sources_of(request)
    may_answer = sources.rights.may_review(me.user, dag_id)
    found = _need_review(request, dag_id, number)
    if may_answer and found.waits and is_own_page(request):
        _open(request, me, found)
    return _show(request, me, found, may_answer=may_answer)


@router.get("/reviews/{dag_id}/{number}/samples/{key}")
def sample(request: Request, dag_id: OneDag, number: int, key: Annotated[str, Depends(need_key)], me: Me) -> Response:
    """Return what is known of one of the subjects of a review, masked; the decision log keeps who has opened it."""
    found = _need_sample(request, dag_id, number, key)
    if sources_of(request).rights.may_review(me.user, dag_id) and found.waits and is_own_page(request):
        _open_sample(request, me, found, key)
    return _show_sample(request, me, found, key, None)


@router.post("/reviews/{dag_id}/{number}/samples/{key}", dependencies=[FromOwnPage])
def reveal_sample(  # noqa: PLR0917  # FastAPI passes them by name
    request: Request,
    dag_id: OneDag,
    number: int,
    key: Annotated[str, Depends(need_key)],
    me: Me,
    form: Annotated[dict[str, str], Depends(form_of)],
) -> Response:
    """Return the same with identifiers, for a reason that goes to the decision log."""
    return _show_sample(request, me, _need_sample(request, dag_id, number, key), key, form)


@router.post("/reviews/{dag_id}/{number}", dependencies=[FromOwnPage])
def answer_review(
    request: Request, dag_id: OneDag, number: int, me: Me, form: Annotated[dict[str, str], Depends(form_of)]
) -> Response:
    """Record an answer; it counts for what the person has seen."""
    _need_right(request, me, dag_id)
    found = _need_review(request, dag_id, number)
    if form.get("seen") != found.seen:
        raise HTTPException(409, _CHANGED)
    _answer(request, me, [found], form)
    return RedirectResponse(f"{base_of(request)}/reviews/{dag_id}/{number}?answered=1", status_code=303)


@router.get("/reviews/{dag_id}/of/{reason}")
def reviews_of_group(request: Request, dag_id: OneDag, me: Me, reason: str, site: str = "") -> Response:
    """Return the reviews of a reason and site, and the form that answers those that are shown."""
    sources = sources_of(request)
    with sources.ledger().page() as ledger:
        found = ledger.open_reviews({dag_id}, reason=reason, site=site)
        opened = ledger.opened_by(me.name, [one.number for one in found])
    values: dict[str, Any] = {"dag_id": dag_id, "reason": reason, "site": site, "reviews": found, "opened": opened}
    values |= {"needed": min(LEAST_OPENED, len(found)), "most": MOST_AT_ONCE, "sentence": SENTENCES.get(reason, "")}
    values["most_by_one"] = MOST_BY_ONE
    values |= {"may_answer": sources.rights.may_review(me.user, dag_id), "now": sources.now()}
    return page(request, "reviews.html", "triage", me, **values)


@router.post("/reviews/{dag_id}/of/{reason}", dependencies=[FromOwnPage])
def answer_group(
    request: Request, dag_id: OneDag, me: Me, reason: str, form: Annotated[dict[str, str], Depends(form_of)]
) -> Response:
    """Record one answer to the reviews that the person has seen in the list."""
    _need_right(request, me, dag_id)
    numbers = [int(text) for text in form.get("numbers", "").split(",") if _NUMBER.fullmatch(text)]
    found = [_need_review(request, dag_id, number) for number in numbers[: MOST_AT_ONCE + 1]]
    if not found:
        raise HTTPException(422, "No review is chosen. Open the list again.")
    _answer(request, me, found, form)
    site = f"?site={quote(found[0].site)}" if found[0].site else ""
    return RedirectResponse(f"{base_of(request)}/reviews/{dag_id}/of/{reason}{site}", status_code=303)


def _need_right(request: Request, me: Reader, dag_id: str) -> None:
    if not sources_of(request).rights.may_review(me.user, dag_id):
        raise HTTPException(403, NOT_ALLOWED)


def _need_review(request: Request, dag_id: str, number: int) -> ReviewRecord:
    with sources_of(request).ledger().page() as ledger:
        found = ledger.review(number) if 0 < number <= LAST_NUMBER else None
    if found is None or found.pipeline != dag_id:
        raise HTTPException(404, "There is no review of this number.")
    return found


def _need_sample(request: Request, dag_id: str, number: int, key: str) -> ReviewRecord:
    found = _need_review(request, dag_id, number)
    if key not in found.samples:
        raise HTTPException(404, "The review does not name this sample.")
    return found


def _open(request: Request, me: Reader, found: ReviewRecord) -> None:
    """Add to the decision log that somebody has opened a review, the first time that they do."""
    sources = sources_of(request)
    with sources.ledger().page() as ledger:
        opened = ledger.opened_by(me.name, [found.number])
    if not opened:
        sources.decide(found.pipeline, lambda ledger: ledger.open_review(found.number, me.name), ANSWERS)


def _open_sample(request: Request, me: Reader, found: ReviewRecord, key: str) -> None:
    sources = sources_of(request)
    with sources.ledger().page() as ledger:
        opened = ledger.samples_opened_by(me.name, found.number)
    if key not in opened:
        sources.decide(found.pipeline, lambda ledger: ledger.open_sample(found.number, key, me.name), ANSWERS)


def _show_sample(request: Request, me: Reader, found: ReviewRecord, key: str, form: dict[str, str] | None) -> Response:
    known, allowed = look_up(request, me, found.samples[key], form, found.datastore_id)
    values: dict[str, Any] = {"review": found, "key": key, "answer": known, "may_reveal": allowed}
    return page(request, "sample.html", "triage", me, **values)


def _show(request: Request, me: Reader, found: ReviewRecord, *, may_answer: bool) -> Response:
    sources = sources_of(request)
    with sources.ledger().page() as ledger:
        of_run = ledger.run(found.run_key)
        opened = ledger.samples_opened_by(me.name, found.number) if found.samples else set()
    study = None if found.is_group else look_up(request, me, found.subject_key, None)[0]
    values: dict[str, Any] = {"review": found, "sentence": SENTENCES.get(found.reason, ""), "answer": study}
    values |= {"run_id": None if of_run is None else of_run.run_id, "now": sources.now(), "may_answer": may_answer}
    values["opened"] = opened
    return page(request, "review.html", "triage", me, **values)


def _answer(request: Request, me: Reader, found: Sequence[ReviewRecord], form: dict[str, str]) -> None:
    """Record an answer, or say why it does not count."""
    sources = sources_of(request)
    pipeline = sources.pipelines().get(found[0].pipeline)
    if pipeline is None:
        raise HTTPException(503, _NO_FILES)
    if form.get("answer") not in _ANSWERS:
        raise HTTPException(422, "Choose whether it is released or stays held.")
    given = ReviewAnswer(_ANSWERS[form["answer"]], me.name, form.get("why", "").strip())
    try:
        answer(sources.s3(pipeline), pipeline, sources.ledger(), found, given, names=sources.rights.names_of(me.user))
    except ReviewError as error:
        raise HTTPException(409, str(error)) from None
    except DecisionNotKeptError as error:
        raise HTTPException(503, str(error)) from None
