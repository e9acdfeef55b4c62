"""An Airflow plugin: the console, pages below ``/airlock`` in the API server and in Airflow's navigation.

The loader runs this file in every component. The pages are imported by the API server at their first request only, so
that no task and no other component pays for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PREFIX = "/airlock"


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request; an ASGI application."""
    from airlock_console.deployment import console  # noqa: PLC0415  # see above

    await console()(scope, receive, send)


class ConsolePlugin(AirflowPlugin):
    """Registers the pages, their entry in the navigation, and a tab on every DAG and DAG run."""

    name = "airlock_console"
    fastapi_apps: list[Any] = [{"app": serve, "url_prefix": PREFIX, "name": "Airlock console"}]  # noqa: RUF012
    external_views: list[Any] = [  # noqa: RUF012  # Airflow's form
        {
            "name": "Airlock",
            "href": f"{PREFIX}/",
            "destination": "nav",
            "nav_top_level": True,
            "url_route": "airlock",
        },
        {
            "name": "Last audit",
            "href": f"{PREFIX}/runs/{{DAG_ID}}",
            "destination": "dag",
            "url_route": "airlock-dag",
        },
        {
            "name": "Audit",
            "href": f"{PREFIX}/runs/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "airlock-run",
        },
    ]
