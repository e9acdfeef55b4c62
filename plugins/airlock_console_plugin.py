"""An Airflow plugin: the console, pages below ``/airlock`` in the API server and in Airflow's navigation.

The loader runs this file in every component. The pages are imported by the API server at their first request only, so
that no task and no other component pays for them.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.sdk.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

PREFIX = "/airlock"
ADDRESS = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + PREFIX  # of the console in a browser


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request; an ASGI application."""
    console = await asyncio.to_thread(_load)  # the import takes a second or two, in which others are served
    await console(scope, receive, send)


@cache
def _load() -> FastAPI:
    from airlock_console.deployment import console  # noqa: PLC0415  # see above

    return console()


class ConsolePlugin(AirflowPlugin):
    """Registers the pages, their entry in the navigation, and a tab on every DAG and DAG run."""

    name = "airlock_console"
    fastapi_apps: list[Any] = [{"app": serve, "url_prefix": PREFIX, "name": "Airlock console"}]  # noqa: RUF012
    external_views: list[Any] = [  # noqa: RUF012  # Airflow's form
        {
            "name": "Airlock",
            "href": f"{ADDRESS}/",
            "destination": "nav",
            "nav_top_level": True,
            "url_route": "airlock",
        },
        {
            "name": "Last audit",
            "href": f"{ADDRESS}/runs/{{DAG_ID}}",
            "destination": "dag",
            "url_route": "airlock-dag",
        },
        {
            "name": "Audit",
            "href": f"{ADDRESS}/runs/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "airlock-run",
        },
    ]
