"""The few calls of Airflow's public REST API that a watched run needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from types import TracebackType

_PAGE = 100  # the API server's own limit per page


class ApiError(RuntimeError):
    """Airflow refused a call or is not there; the message says which and why."""


class AirflowApi:
    """Airflow's REST API as one user.

    Parameters
    ----------
    url
        The API server's address, without a slash at its end.
    user, password
        Exchanged for a token at the first call.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._login = {"username": user, "password": password}
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def log_in(self) -> None:
        """Fetch a token; the calls after it carry it."""
        token = self._call("POST", "/auth/token", json=self._login)["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def dag(self, dag: str) -> dict[str, Any] | None:
        """Return a DAG's details, or None while Airflow does not know it."""
        found = self._call("GET", f"/api/v2/dags/{quote(dag)}", missing={})
        return found or None

    def import_errors(self) -> list[str]:
        """Return why DAG files could not be read, one text per file."""
        return [
            f"{item['filename']}: {item['stack_trace'].strip().splitlines()[-1]}"
            for item in self._call("GET", "/api/v2/importErrors")["import_errors"]
        ]

    def reparse(self, file_token: str) -> None:
        """Ask the DAG processor to read a DAG file before its turn."""
        self._call("PUT", f"/api/v2/parseDagFile/{quote(file_token, safe='')}", conflict={})

    def any_file_token(self) -> str | None:
        """Return the token of some DAG file, if there is one."""
        dags = self._call("GET", "/api/v2/dags", params={"limit": 1})["dags"]
        return dags[0]["file_token"] if dags else None

    def make_pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool whose slots deferred tasks hold too, unless there is one of this name."""
        pool = {"name": name, "slots": slots, "description": description, "include_deferred": True}
        self._call("POST", "/api/v2/pools", json=pool, conflict={})

    def unpause(self, dag: str) -> None:
        """Let a DAG's runs start."""
        self._call("PATCH", f"/api/v2/dags/{quote(dag)}", json={"is_paused": False})

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Start a run by hand and return its id."""
        run = self._call("POST", f"/api/v2/dags/{quote(dag)}/dagRuns", json={"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def unfinished_runs(self, dag: str) -> list[str]:
        """Return the ids of a DAG's queued and running runs."""
        found = self._call("GET", f"/api/v2/dags/{quote(dag)}/dagRuns", params={"state": ["queued", "running"]})
        return [run["dag_run_id"] for run in found["dag_runs"]]

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Return all runs of a DAG, as the REST API shows them."""
        return self._pages(f"/api/v2/dags/{quote(dag)}/dagRuns", "dag_runs")

    def run_state(self, dag: str, run: str) -> str:
        """Return ``queued``, ``running``, ``success`` or ``failed``."""
        return str(self._call("GET", _run(dag, run))["state"])

    def task_instances(self, dag: str, run: str) -> list[dict[str, Any]]:
        """Return all task instances of a run."""
        return self._pages(f"{_run(dag, run)}/taskInstances", "task_instances")

    def _pages(self, path: str, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", path, params={"limit": _PAGE, "offset": len(found)})
            found.extend(page[name])
            if not page[name] or len(found) >= page["total_entries"]:
                return found

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Any = None,
        missing: Any = None,
        conflict: Any = None,
    ) -> Any:
        try:
            reply = self._client.request(method, path, json=json, params=params)
        except httpx.TransportError as error:
            raise ApiError(f"the Airflow API server does not answer ({error or type(error).__name__})") from error
        if reply.status_code == httpx.codes.NOT_FOUND and missing is not None:
            return missing
        if reply.status_code == httpx.codes.CONFLICT and conflict is not None:
            return conflict
        if reply.is_error:
            raise ApiError(f"Airflow refuses {method} {path} with {reply.status_code}: {_reason(reply)}")
        return reply.json() if reply.content else {}


def _run(dag: str, run: str) -> str:
    return f"/api/v2/dags/{quote(dag)}/dagRuns/{quote(run, safe='')}"


def _reason(reply: httpx.Response) -> str:
    try:
        return str(reply.json().get("detail", reply.text))[:500]
    except ValueError:
        return reply.text[:500]
