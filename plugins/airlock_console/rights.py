"""Who is at the page, and what they may see; every route depends on one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, HTTPException, Request

if TYPE_CHECKING:
    from airlock_console.sources import Sources

NOT_YOURS = "You may not read this pipeline, or Airlock has none of this name."
_FOREIGN = "This request did not come from a page of the console. Open the page and try again."


@dataclass(frozen=True)
class Reader:
    """The person at the page, and the pipelines that they may read."""

    user: Any  # Airflow's
    name: str
    pipelines: frozenset[str]


def sources_of(request: Request) -> Sources:
    """Return the outside world of the pages."""
    sources: Sources = request.app.state.sources
    return sources


def _read(request: Request, user: Annotated[Any, Depends(get_user)]) -> Reader:
    sources = sources_of(request)
    readable = sources.rights.readable_dags(user)
    return Reader(user, str(user.get_name()), frozenset(readable.intersection(sources.names())))


Me = Annotated[Reader, Depends(_read)]


def _need_dag(dag_id: str, me: Me) -> str:
    if dag_id not in me.pipelines:
        raise HTTPException(403, NOT_YOURS)
    return dag_id


OneDag = Annotated[str, Depends(_need_dag)]


def is_own_page(request: Request) -> bool:
    """Return whether a request came from a page of the console, not from a page of another site.

    A program sends a token in a header, and no word of a browser about where it comes from. Another scheme than Bearer
    proves nothing: a browser adds a password of a proxy to requests from any page.
    """
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None:
        return fetched == "same-origin"
    if request.headers.get("authorization", "").lower().startswith("bearer "):
        return True
    origin = urlsplit(request.headers.get("origin", "")).netloc
    return bool(origin) and origin == request.headers.get("host")


def need_own_page(request: Request) -> None:
    """Refuse a request that a page of another site has sent with the user's cookie."""
    if not is_own_page(request):
        raise HTTPException(403, _FOREIGN)


FromOwnPage = Depends(need_own_page)


def may_reveal(request: Request, me: Reader, pipelines: set[str]) -> bool:
    """Return whether a person may see identifiers of all of these pipelines."""
    rights = sources_of(request).rights
    return bool(pipelines) and all(rights.may_reveal(me.user, name) for name in pipelines)
