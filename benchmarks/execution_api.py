"""The part of Airflow's execution API that task processes call, on loopback: it keeps no state of its own."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN_ID, MOMENT = "manual__2026-11-24T00:00:00+00:00", "2026-11-24T00:00:00Z"
_DAG_RUN: dict[str, Any] = {
    "run_id": RUN_ID,
    "logical_date": MOMENT,
    "data_interval_start": MOMENT,
    "data_interval_end": MOMENT,
    "run_after": MOMENT,
    "start_date": MOMENT,
    "end_date": None,
    "run_type": "manual",
    "state": "running",
    "conf": {},
    "consumed_asset_events": [],
    "partition_key": None,
}


@dataclass
class ExecutionApi:
    """What the server answers, and what tasks have told it.

    Parameters
    ----------
    xcom
        The values that tasks have returned, by task id.
    resumed
        Where a deferred task goes on, by task instance: ``next_method`` and ``next_kwargs``.
    dags
        The DAG of each task instance.
    states
        The last state that each task instance has reported, with its fields.
    unanswered
        The requests that the server does not know.
    """

    xcom: dict[str, Any] = field(default_factory=dict)
    resumed: dict[str, dict[str, Any]] = field(default_factory=dict)
    dags: dict[str, str] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)

    def answer(self, method: str, path: tuple[str, ...], body: Any) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        answer: tuple[int, Any] = 404, {"detail": {"reason": "not_found"}}
        match method, *path:
            case "PATCH", "task-instances", task, "run":
                answer = 200, self._begin(task)
            case "PATCH", "task-instances", task, "state":
                self.states[task] = body
                answer = 204, None
            case (("PUT" | "PATCH"), "task-instances", _, ("rtif" | "heartbeat" | "rendered-map-index")):
                answer = 204, None
            case "GET", "xcoms", _, _, task, key if task in self.xcom:
                answer = 200, {"key": key, "value": self.xcom[task]}
            case ("POST", "xcoms", *_) | ("PUT", "store", *_):
                answer = 201, {}
            case "GET", ("store" | "connections" | "xcoms"), *_:
                pass
            case _:
                self.unanswered.append(f"{method} {'/'.join(path)}")
        return answer

    def _begin(self, task: str) -> dict[str, Any]:
        """Return the context in which a task instance begins, or goes on."""
        context = {"dag_run": _DAG_RUN | {"dag_id": self.dags[task]}, "max_tries": 3, "should_retry": True}
        return context | self.resumed.get(task, {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: ClassVar[ExecutionApi]

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path = tuple(urlsplit(self.path).path.strip("/").split("/")[1:])  # without "execution"
        status, answer = self.api.answer(self.command, path, body)
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815  # http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Log nothing."""


@contextmanager
def execution_api() -> Iterator[tuple[str, ExecutionApi]]:
    """Yield the address of a running server, and what it answers."""
    api = ExecutionApi()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api})) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/execution/", api
        finally:
            server.shutdown()
