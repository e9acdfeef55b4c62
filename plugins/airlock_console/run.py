"""A run: its balance, reasons, jobs and messages; the tab on every DAG run."""

from __future__ import annotations

from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from airlock.ledger.runs import parse_wave
from airlock.pipelines import ImagingPipeline
from airlock.stages.pages.costs import estimate_run_cost
from airlock.stages.pages.medians import count_nights, last_nights, median_reasons
from airlock.stages.pages.run_view import view_run
from airlock.storage.s3 import S3Error
from airlock_console.find import NO_REASON, NOT_ALLOWED, log_reveal
from airlock_console.responses import form_of, page
from airlock_console.rights import FromOwnPage, Me, OneDag, Reader, may_reveal, sources_of

if TYPE_CHECKING:
    from airlock.ledger.console import Console
    from airlock.ledger.jobs import Job
    from airlock.ledger.runs import RunRecord

router = APIRouter()
_LOOK_BACK = timedelta(days=30)
_TYPES = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}
_NO_LIST = "This server cannot read the list: it lacks the pipeline's file, or the run has not written the list yet."
_NO_RUN = "The ledger has no such run. It may be a sweep, it may not have begun, or it was given up before it claimed."


@router.get("/runs/{dag_id}")
def newest_run(request: Request, dag_id: OneDag, me: Me) -> Response:
    """Return the pipeline's newest run."""
    return _show(request, dag_id, None, me)


@router.get("/runs/{dag_id}/{run_id}")
def one_run(request: Request, dag_id: OneDag, run_id: str, me: Me) -> Response:
    """Return a run by Airflow's id of it."""
    return _show(request, dag_id, run_id, me)


@router.get("/runs/{dag_id}/{run_id}/report.json")
def report(request: Request, dag_id: OneDag, run_id: str) -> Response:
    """Return a run's report as the ledger has it."""
    with sources_of(request).ledger().page() as ledger:
        found = ledger.find_run(dag_id, run_id)
    if found is None or found.report is None:
        raise HTTPException(404, "The run has no report yet. Its task audit writes it.")
    headers = {"Content-Disposition": 'attachment; filename="report.json"', "Cache-Control": "no-store"}
    return JSONResponse(found.report, headers=headers)


@router.post("/runs/{dag_id}/{run_id}/lists/{name}", dependencies=[FromOwnPage])
def list_of_run(  # noqa: PLR0917  # FastAPI passes them by name
    request: Request, dag_id: OneDag, run_id: str, name: str, me: Me, form: Annotated[dict[str, str], Depends(form_of)]
) -> Response:
    """Return dispositions.csv or another list of a run from the workspace; it has keys, so it is a reveal."""
    sources = sources_of(request)
    pipeline = sources.pipelines().get(dag_id)
    if not may_reveal(request, me, {dag_id}):
        raise HTTPException(403, NOT_ALLOWED)
    if sources.account is None or pipeline is None or name not in pipeline.report_lists:
        raise HTTPException(404, _NO_LIST)
    why = form.get("why", "").strip()
    if not why:
        raise HTTPException(422, NO_REASON)
    with sources.ledger().page() as ledger:
        found = ledger.find_run(dag_id, run_id)
    if found is None:
        raise HTTPException(404, _NO_RUN)
    body = sources.account.stream_list(pipeline, found.run_key, name)
    try:
        first = next(body, b"")  # S3 is asked only now
    except S3Error as error:
        if error.code == "NoSuchKey":
            raise HTTPException(404, _NO_LIST) from None
        raise HTTPException(503, f"S3 does not give the list ({error.code}). Check the API server's rights.") from None
    log_reveal(request, [dag_id], None, me.name, f"{name} of run {found.run_key}: {why}")
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(chain([first], body), media_type=_TYPES[name.rpartition(".")[2]], headers=headers)


def _show(request: Request, dag_id: str, run_id: str | None, me: Me) -> Response:
    sources = sources_of(request)
    with sources.ledger().page() as ledger:
        found = ledger.find_run(dag_id, run_id)
        if found is None:
            return page(request, "problem.html", "run", me, status=404, sentence=_NO_RUN)
        values = _read(ledger, found)
        values["wave"] = _find_wave(ledger, found)
    dag = sources.dags([dag_id]).get(dag_id)
    values["tasks"] = sources.tasks(dag_id, found.run_id) if found.report is None else []
    values["failed"] = dag is not None and dag.last_run_id == found.run_id and dag.last_state == "failed"
    values["may_change"] = sources.rights.may_change(me.user, dag_id)
    values["lists"] = _lists_for(request, me, dag_id)
    file = sources.pipelines().get(dag_id)
    if found.report is not None and isinstance(file, ImagingPipeline):
        values["cost"] = estimate_run_cost(found.report, file.plan)
    return page(request, "run_page.html", "run", me, record=found, now=sources.now(), **values)


def _lists_for(request: Request, me: Reader, dag_id: str) -> tuple[str, ...]:
    """Return the names of the lists of a pipeline's runs that a person may have from here."""
    sources = sources_of(request)
    pipeline = sources.pipelines().get(dag_id) if sources.account is not None else None
    return pipeline.report_lists if pipeline is not None and may_reveal(request, me, {dag_id}) else ()


def _read(ledger: Console, run: RunRecord) -> dict[str, Any]:
    """Return what the page shows of a run, ended or not."""
    messages = ledger.messages_by_state(run.pipeline, run.run_key)
    if run.report is None:
        return {"run": None, "messages": messages, "jobs": _count_jobs(ledger.jobs_of(run.run_key))}
    nights = count_nights(ledger.nightly_totals({run.pipeline}, run.started_at - _LOOK_BACK))
    before = last_nights(nights, run.pipeline, run.started_at)
    held = run.report.get("held", [])
    return {"run": view_run(run.report, median_reasons(before)), "messages": messages, "jobs": None, "held": held}


def _find_wave(ledger: Console, run: RunRecord) -> tuple[str, int, int] | None:
    """Return who has listed a run's delivery, the run's wave of it and the last wave that has begun; None without."""
    lead, number = parse_wave(run.run_id)
    last = ledger.last_claimed_wave(run.pipeline, lead)
    newest = max(number, 1 if last is None else parse_wave(last)[1])
    return (lead, number, newest) if newest > 1 else None


def _count_jobs(jobs: list[Job]) -> tuple[int, int]:
    """Return how many batches have a job that ended, and how many have a job."""
    last = {job.batch_id: job for job in sorted(jobs, key=lambda one: one.generation)}
    return sum(job.ended_at is not None for job in last.values()), len(last)
