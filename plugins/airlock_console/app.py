"""The console as one application: its routes, its headers, and a sentence for everything that can go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from airlock.ledger.errors import (
    LedgerError,
    LedgerSchemaError,
    LedgerSlowError,
    LedgerUnreachableError,
)
from airlock.stages.decision_log import DecisionNotKeptError
from airlock_console import (
    destinations,
    find,
    migration,
    redrive,
    reviews,
    run,
    static,
    study,
    tonight,
    trends,
    triage,
)
from airlock_console.responses import HEADERS, page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi.responses import HTMLResponse, Response

    from airlock_console.sources import Sources

ROUTERS = tuple(
    module.router
    for module in (tonight, run, find, study, triage, reviews, redrive, migration, trends, destinations, static)
)
_BY_ERROR: tuple[tuple[type[LedgerError], str], ...] = (
    (LedgerSlowError, "The ledger needs too long for this page. Choose less, or try again in a moment."),
    (LedgerSchemaError, "The ledger has another schema than this version of Airlock. Run airlock ledger upgrade."),
    (LedgerUnreachableError, "The ledger does not answer. Check its database; runs wait for it too."),
    (LedgerError, "The ledger refuses this. The log of the API server has the reason."),
)
_BY_STATUS = {
    401: "Your login has expired, or you are not logged in. Log in to Airflow, then open this page again.",
    404: "There is no such page.",
    405: "There is no such page.",
}
_OF_THE_FRAMEWORK = {"Not Found", "Method Not Allowed"}  # details that are not ours
_NOT_KEPT = (
    "The decision log's copy in the workspace could not be written, so nothing was done or shown. Check S3, "
    "and that the API server may write to the folder decisions."
)
_BROKEN = "This page failed. The log of the API server has the reason; no run is affected."


def build(sources: Sources) -> FastAPI:
    """Return the console.

    Every route asks for a user, because the application does: a route that forgets to is closed, not open.
    """
    app = FastAPI(
        title="Airlock console", dependencies=[Depends(get_user)], docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.sources = sources
    for router in ROUTERS:
        app.include_router(router)
    app.middleware("http")(_add_headers)
    app.exception_handler(HTTPException)(_refuse)
    app.exception_handler(RequestValidationError)(_refuse_values)
    app.exception_handler(LedgerError)(_explain_ledger)
    app.exception_handler(DecisionNotKeptError)(_explain_copy)
    app.exception_handler(Exception)(_break)
    return app


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def _say(request: Request, status: int, sentence: str) -> HTMLResponse:
    answer = page(request, "problem.html", "problem", None, status=status, sentence=sentence)
    answer.headers.update(HEADERS)
    return answer


async def _refuse(request: Request, error: Exception) -> HTMLResponse:
    status = getattr(error, "status_code", 500)
    detail = getattr(error, "detail", "")
    if status in _BY_STATUS and (status == 401 or detail in _OF_THE_FRAMEWORK):
        return _say(request, status, _BY_STATUS[status])
    return _say(request, status, detail if isinstance(detail, str) else _BROKEN)


async def _refuse_values(request: Request, _: Exception) -> HTMLResponse:
    return _say(request, 422, "The address of this page has a value that does not belong there.")


async def _explain_ledger(request: Request, error: Exception) -> HTMLResponse:
    return _say(request, 503, next(text for kind, text in _BY_ERROR if isinstance(error, kind)))


async def _explain_copy(request: Request, _: Exception) -> HTMLResponse:
    return _say(request, 503, _NOT_KEPT)


async def _break(request: Request, _: Exception) -> HTMLResponse:
    return _say(request, 500, _BROKEN)
