"""The calls of Airflow's public REST API that start and watch a run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from types import TracebackType

_PAGE = 100  # the API server's own limit per page
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class ApiError(RuntimeError):
    """Airflow refused a call; the message names the call and the cause."""


class ApiUnreachableError(ApiError):
    """Airflow does not answer, fails with an error of its own, or denies the user access."""


class AirflowApi:
    """Airflow's REST API as one user.

    Parameters
    ----------
    url
        The API server's address, without a slash at its end.
    user, password
        Exchanged for a token at login, and again when the token has expired.
    token
        Used instead of a user and a password.
    """

    def __init__(self, url: str, user: str = "", password: str = "", *, token: str = "") -> None:
        self._url = url
        self._login = {"username": user, "password": password}
        self._token = token
        local = httpx.URL(url).host in _LOOPBACK
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=not local)  # a proxy cannot reach this machine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def log_in(self) -> None:
        """Fetch a token, unless one was given, and send it with all later calls."""
        token = self._token or _decode(self._send("POST", "/auth/token", json=self._login))["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def run_page(self, dag: str, run: str) -> str:
        """Return the address of a run's page in Airflow's UI."""
        return f"{self._url}/dags/{quote(dag)}/runs/{quote(run, safe='')}"

    def dag(self, dag: str) -> dict[str, Any] | None:
        """Return a DAG's details, or None if Airflow does not know the DAG."""
        found = self._call("GET", f"/api/v2/dags/{quote(dag)}", missing={})
        return found or None

    def dags(self) -> list[str]:
        """Return the ids of all DAGs."""
        return [item["dag_id"] for item in self._pages("/api/v2/dags", "dags")]

    def import_errors(self) -> list[str]:
        """Return the last line of each DAG file's import error, with the file's name."""
        return [
            f"{item['filename']}: {item['stack_trace'].strip().splitlines()[-1]}"
            for item in self._call("GET", "/api/v2/importErrors")["import_errors"]
        ]

    def reparse(self, file_token: str) -> None:
        """Ask the DAG processor to read a DAG file now."""
        self._call("PUT", f"/api/v2/parseDagFile/{quote(file_token, safe='')}", conflict={})

    def any_file_token(self) -> str | None:
        """Return the file token of any one DAG, or None if there are no DAGs."""
        dags = self._call("GET", "/api/v2/dags", params={"limit": 1})["dags"]
        return dags[0]["file_token"] if dags else None

    def make_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool in which deferred tasks keep their slots, unless the pool exists."""
        if self._call("GET", f"/api/v2/pools/{quote(name, safe='')}", missing={}):
            return  # Airflow logs a refused duplicate as a database error
        pool = {"name": name, "slots": slots, "description": description, "include_deferred": True}
        self._call("POST", "/api/v2/pools", json=pool, conflict={})  # another make run may have created it meanwhile

    def unpause(self, dag: str) -> None:
        """Let a DAG's runs start."""
        self._call("PATCH", f"/api/v2/dags/{quote(dag)}", json={"is_paused": False})

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Start a manual run and return its id."""
        now = datetime.now(UTC).isoformat()  # without a logical date its tasks would come after those of later runs
        run = self._call("POST", f"/api/v2/dags/{quote(dag)}/dagRuns", json={"logical_date": now, "conf": conf})
        return str(run["dag_run_id"])

    def unfinished_runs(self, dag: str) -> list[str]:
        """Return the ids of a DAG's queued and running runs."""
        found = self._call("GET", f"/api/v2/dags/{quote(dag)}/dagRuns", params={"state": ["queued", "running"]})
        return [run["dag_run_id"] for run in found["dag_runs"]]

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """Return all runs of a DAG as the REST API's records."""
        return self._pages(f"/api/v2/dags/{quote(dag)}/dagRuns", "dag_runs")

    def run_state(self, dag: str, run: str) -> str:
        """Return ``queued``, ``running``, ``success`` or ``failed``."""
        return str(self._call("GET", _run_path(dag, run))["state"])

    def task_instances(self, dag: str, run: str) -> list[dict[str, Any]]:
        """Return all task instances of a run as the REST API's records."""
        return self._pages(f"{_run_path(dag, run)}/taskInstances", "task_instances")

    def _pages(self, path: str, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", path, params={"limit": _PAGE, "offset": len(found)})
            found.extend(page[name])
            if not page[name] or len(found) >= page["total_entries"]:
                return found

    def task_log(self, task: dict[str, Any]) -> list[Any]:
        """Return the log of a task instance's last try as dicts or plain lines; empty if there is no log."""
        path = f"{_run_path(task['dag_id'], task['dag_run_id'])}/taskInstances/{quote(task['task_id'], safe='')}"
        params = {"map_index": task["map_index"], "full_content": True}
        found = self._call("GET", f"{path}/logs/{task['try_number']}", params=params, missing={"content": []})
        return list(found["content"])

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
        reply = self._send(method, path, json=json, params=params)
        if reply.status_code == httpx.codes.UNAUTHORIZED and self._login["username"]:  # the token has expired
            self.log_in()
            reply = self._send(method, path, json=json, params=params)
        if reply.status_code == httpx.codes.NOT_FOUND and missing is not None:
            return missing
        if reply.status_code == httpx.codes.CONFLICT and conflict is not None:
            return conflict
        return _decode(reply)

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **content)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ApiUnreachableError(
                f"The Airflow API server at {self._url} does not answer ({error or type(error).__name__}). "
                "On a busy machine, try again."
            ) from error


def _run_path(dag: str, run: str) -> str:
    return f"/api/v2/dags/{quote(dag)}/dagRuns/{quote(run, safe='')}"


def _decode(reply: httpx.Response) -> Any:
    """Return the decoded JSON of a reply.

    Raises
    ------
    ApiError
        If the reply is an error, or is not Airflow's.
    """
    call = f"{reply.request.method} {reply.request.url.path}"
    if reply.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise ApiUnreachableError(f"Airflow does not let this user call {call}: {_refusal(reply)}")
    if reply.is_server_error:
        raise ApiUnreachableError(f"Airflow failed at {call} with {reply.status_code}: {_refusal(reply)}")
    if reply.is_error:
        raise ApiError(f"Airflow refused {call} with {reply.status_code}: {_refusal(reply)}")
    try:
        return reply.json() if reply.content else {}
    except ValueError:
        raise ApiUnreachableError(
            f"The server that answered {call} with {reply.status_code} is not Airflow's REST API."
        ) from None


def _refusal(reply: httpx.Response) -> str:
    try:
        return str(reply.json().get("detail", reply.text))[:500]
    except (ValueError, AttributeError):
        return reply.text[:500]
