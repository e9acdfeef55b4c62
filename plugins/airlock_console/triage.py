"""Triage: what is held and rejected, grouped by reason and site; opened to studies, then to files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
from fastapi import APIRouter, Depends, HTTPException, Request, Response

from airlock.ledger.triage import MOST_LISTED, PAGE, Group, Listed
from airlock.reasons import SENTENCES
from airlock.records import Disposition
from airlock.stages.reporting import cells_to_csv
from airlock_console.find import NO_REASON, NOT_ALLOWED, log_reveal
from airlock_console.responses import form_of, page
from airlock_console.rights import FromOwnPage, Me, OneDag, may_reveal, sources_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from airlock.ledger.nights import Total

router = APIRouter()
OPEN = (Disposition.HELD.value, Disposition.QUARANTINED.value, Disposition.FAILED.value)
_FACETS = ("pipeline", "site", "disposition", "reason", "age")
_AGES = ((timedelta(days=1), "under a day"), (timedelta(days=7), "1 to 7 days"), (timedelta(days=30), "7 to 30 days"))
_OLDEST = "over 30 days"
_CUT_OFF = "The list ends after {:,} files. There are more: get the list again when these have been corrected."


@dataclass(frozen=True)
class GroupRow:
    """Files of one pipeline and site with the same disposition and reason."""

    pipeline: str
    site: str
    disposition: str
    reason: str
    files: int
    bytes: int
    since: datetime
    sentence: str
    age: str  # one of `_AGES`, or `_OLDEST`


@router.get("/triage")
def triage(  # noqa: PLR0917  # FastAPI passes them by name
    request: Request,
    me: Me,
    pipeline: str | None = None,
    site: str | None = None,
    disposition: str | None = None,
    reason: str | None = None,
    age: str | None = None,
) -> Response:
    """Return the groups that have these values, what is held first and then the largest, and the open reviews."""
    given = {"pipeline": pipeline, "site": site, "disposition": disposition, "reason": reason, "age": age}
    chosen = {name: value for name, value in given.items() if value is not None}
    sources = sources_of(request)
    with sources.ledger().page() as ledger:
        totals = ledger.present_totals(me.pipelines)
        named = me.pipelines if pipeline is None else me.pipelines & {pipeline}
        reviews, parked = ledger.review_groups(named), ledger.parked_now(named)
    now = sources.now()
    groups = [_group(total, now) for total in totals if total.disposition in OPEN]
    shown = [group for group in groups if all(getattr(group, name) == value for name, value in chosen.items())]
    shown.sort(key=lambda group: (-group.files, group.pipeline, group.reason, group.site))
    shown.sort(key=lambda group: group.disposition != Disposition.HELD.value)
    values: dict[str, Any] = {"groups": shown, "facets": _count_facets(groups, chosen), "chosen": chosen}
    return page(request, "triage.html", "triage", me, reviews=reviews, parked=parked, now=now, **values)


def _group(total: Total, now: datetime) -> GroupRow:
    code = total.reason or ""
    facts = total.pipeline, total.site, total.disposition, code, total.arrivals, total.bytes, total.since
    age = next((name for limit, name in _AGES if now - total.since < limit), _OLDEST)
    return GroupRow(*facts, sentence=SENTENCES.get(code, ""), age=age)


def _count_facets(groups: Iterable[GroupRow], chosen: dict[str, str]) -> dict[str, list[tuple[str, int]]]:
    """Return, for each facet, its values with their files under the choices of the other facets."""
    counted = {name: Counter[str]() for name in _FACETS}
    for group in groups:
        for name, counter in counted.items():
            others = {key: value for key, value in chosen.items() if key != name}
            if all(getattr(group, key) == value for key, value in others.items()):
                counter[getattr(group, name)] += group.files
    return {name: counter.most_common(30) for name, counter in counted.items()}


def _need_group(dag_id: OneDag, disposition: str, reason: str, site: str | None = None) -> Group:
    if disposition not in OPEN or reason not in SENTENCES:
        raise HTTPException(404, "There is no such group.")
    return Group(dag_id, disposition, reason, site)


OneGroup = Annotated[Group, Depends(_need_group)]


@router.get("/triage/{dag_id}/{disposition}/{reason}")
def studies_of_group(request: Request, group: OneGroup, me: Me, after: str | None = None) -> Response:
    """Return the studies with files in a group, a page at a time."""
    sources = sources_of(request)
    with sources.ledger().page() as ledger:
        studies = ledger.studies_of(group, after)
    more = studies[PAGE - 1].study_key if len(studies) > PAGE else None
    may_change = sources.rights.may_change(me.user, group.pipeline)
    values: dict[str, Any] = {
        "group": group,
        "sentence": SENTENCES[group.reason],
        "studies": studies[:PAGE],
        "more": more,
        "most_listed": MOST_LISTED,
    }
    return page(request, "group.html", "triage", me, may_change=may_change, now=sources.now(), **values)


@router.get("/triage/{dag_id}/{disposition}/{reason}/files")
def files_of_group(request: Request, group: OneGroup, me: Me, after: str | None = None) -> Response:
    """Return the files of a group that belong to no known study, masked."""
    return _show_files(request, group, me, after, None)


@router.post("/triage/{dag_id}/{disposition}/{reason}/files", dependencies=[FromOwnPage])
def reveal_files_of_group(
    request: Request, group: OneGroup, me: Me, form: Annotated[dict[str, str], Depends(form_of)]
) -> Response:
    """Return the same with keys, for a reason that goes to the decision log."""
    return _show_files(request, group, me, form.get("after") or None, form)


@router.get("/triage/{dag_id}/{disposition}/{reason}/list.csv")
def list_for_sender(request: Request, group: OneGroup) -> Response:
    """Return the files of a group as CSV, without keys and UIDs: the sender finds them by ETag, size and time."""
    with sources_of(request).ledger().page() as ledger:
        rows = [vars(one) for one in ledger.list_of(group)]
    names = [field.name for field in fields(Listed)]
    table = pl.DataFrame(rows[:MOST_LISTED], schema=names, orient="row") if rows else pl.DataFrame(schema=names)
    advice = {"reason": pl.lit(group.reason), "what_to_do": pl.lit(SENTENCES[group.reason])}
    body = cells_to_csv(table.with_columns(**advice).cast(pl.String))
    if len(rows) > MOST_LISTED:
        body += f'"{_CUT_OFF.format(MOST_LISTED)}"\r\n'
    headers = {"Content-Disposition": f'attachment; filename="{group.pipeline}-{group.reason}.csv"'}
    return Response(body, media_type="text/csv; charset=utf-8", headers=headers | {"Cache-Control": "no-store"})


def _show_files(request: Request, group: Group, me: Me, after: str | None, form: dict[str, str] | None) -> Response:
    sources = sources_of(request)
    allowed = may_reveal(request, me, {group.pipeline})
    if form is not None:
        if not allowed:
            raise HTTPException(403, NOT_ALLOWED)
        if not form.get("why", "").strip():
            raise HTTPException(422, NO_REASON)
    with sources.ledger().page() as ledger:
        files = ledger.files_of(group, after)
    if form is not None:  # before anything is shown
        log_reveal(request, [group.pipeline], None, me.name, form["why"].strip())
    more = files[PAGE - 1].arrival_id if len(files) > PAGE else None
    values: dict[str, Any] = {
        "group": group,
        "sentence": SENTENCES[group.reason],
        "files": files[:PAGE],
        "more": more,
        "after": after,
    }
    return page(request, "files.html", "triage", me, may_reveal=allowed, revealed=form is not None, **values)
