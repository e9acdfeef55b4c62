"""A redrive, with its dry run first: what would go through again, what comes along, and what is refused and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import APIRouter, HTTPException, Query, Request, Response

from airlock.imaging.redrive import RULES
from airlock.pipelines import ImagingPipeline
from airlock.reasons import SENTENCES
from airlock.run import Run
from airlock.stages.redrive import select_arrivals
from airlock.stages.redrive_request import RedriveError, read_request
from airlock.stages.redrive_resources import SEVERAL_REASONS, LedgerRules
from airlock.storage.s3uri import S3Uri
from airlock_console.responses import page
from airlock_console.rights import Me, OneDag, sources_of

if TYPE_CHECKING:
    import polars as pl

    from airlock.pipelines import Pipeline
    from airlock.run import RedriveRequest
    from airlock.storage.s3 import S3
    from airlock_console.sources import Sources

router = APIRouter()
NOT_CHANGED = "You may not start runs of this pipeline."
_UNKNOWN = "What the redrive will take is known when it has begun: its task buffer says so."


@router.get("/redrive/{dag_id}")
def redrive(  # noqa: PLR0917  # FastAPI passes them by name
    request: Request,
    dag_id: OneDag,
    me: Me,
    run: str | None = None,
    study: str | None = None,
    reasons: Annotated[list[str] | None, Query()] = None,
    site: str | None = None,
    non_primary: Annotated[str | None, Query(pattern="^(promote|delete)$")] = None,
) -> Response:
    """Return what a redrive of this choice would process again, and the form that starts it."""
    sources = sources_of(request)
    if not sources.rights.may_change(me.user, dag_id):
        raise HTTPException(403, NOT_CHANGED)
    if not (run or study or reasons) or not set(reasons or ()) <= set(SENTENCES):
        raise HTTPException(422, "Nothing is chosen. Choose a run, a study or a reason in triage.")
    conf: dict[str, Any] = {"redrive_run": run, "redrive_study": study, "redrive_reasons": reasons}
    conf |= {"redrive_site": site, "redrive_non_primary": non_primary}
    conf = {name: value for name, value in conf.items() if value}
    values = _preview(sources, dag_id, conf | {"redrive_why": "dry run"})
    return page(request, "redrive.html", "triage", me, dag_id=dag_id, conf=conf, **values)


def _preview(sources: Sources, dag_id: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a dry run, or why there are none."""
    pipeline = sources.pipelines().get(dag_id)
    values: dict[str, Any] = {"counts": (), "total": 0, "unsure": 0, "alone": True, "refused": None, "unknown": None}
    if pipeline is None:
        return values | {"unknown": _UNKNOWN}
    is_imaging = isinstance(pipeline, ImagingPipeline)
    source = S3Uri.parse(pipeline.source.uri)
    try:
        asked = read_request(conf, "dry run", pipeline)
        if asked is None:
            raise HTTPException(422, "Nothing is chosen.")
        with sources.ledger().page(stages_values=True) as ledger:
            # Only a list of a person would be read from S3.
            dry = Run(pipeline, "dry run", None, source, cast("S3", None), ledger)
            rows = select_arrivals(dry, asked, RULES) if is_imaging else _select_files(dry, asked)
    except RedriveError as error:
        return values | {"refused": str(error)}
    counted = Counter(rows.select("disposition", "reason").iter_rows())
    counts = [(number, word, code or "") for (word, code), number in counted.most_common()]
    several = set() if is_imaging or not asked.reasons else set(SEVERAL_REASONS) - set(asked.reasons)
    unsure = sum(number for number, _, code in counts if code in several)
    return values | {"counts": counts, "total": rows.height - unsure, "unsure": unsure, "alone": is_imaging}


def _select_files(dry: Run[Pipeline], asked: RedriveRequest) -> pl.DataFrame:
    """Return the files with one of the reasons, and those of which only the runs' workspaces know all reasons."""
    reasons = (*asked.reasons, *map(str, SEVERAL_REASONS)) if asked.reasons else ()
    return select_arrivals(dry, replace(asked, reasons=reasons), LedgerRules())
