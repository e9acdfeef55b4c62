"""The end of import jobs as the emulator's EventBridge events tell it: an endpoint on loopback, a wait for a job."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDED = frozenset({"COMPLETED", "FAILED"})


class JobEvents:
    """The jobs that have ended."""

    def __init__(self) -> None:
        self._ended: set[str] = set()
        self._changed = Condition()

    def note(self, entries: list[dict[str, Any]]) -> None:
        """Note the events of a PutEvents request."""
        details = [json.loads(entry["Detail"]) for entry in entries]
        with self._changed:
            self._ended |= {each["jobId"] for each in details if each.get("jobStatus") in _ENDED}
            self._changed.notify_all()

    def wait(self, job: str, within: float) -> None:
        """Wait until a job has ended.

        Raises
        ------
        TimeoutError
            If it has not within so many seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: job in self._ended, within):
                raise TimeoutError(f"no event has told the end of an import job within {within:.0f} s")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    events: ClassVar[JobEvents]

    def do_POST(self) -> None:  # http.server's name
        entries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["Entries"]
        answer = json.dumps({"FailedEntryCount": 0, "Entries": [{"EventId": "1"} for _ in entries]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.events.note(entries)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Log nothing."""


@contextmanager
def job_events() -> Iterator[tuple[str, JobEvents]]:
    """Yield an address for the emulator's events, and what they tell."""
    events = JobEvents()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"events": events})) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", events
        finally:
            server.shutdown()
