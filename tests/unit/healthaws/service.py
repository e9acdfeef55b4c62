"""A HealthImaging that answers from a script: over HTTP, or through botocore's Stubber."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

DATASTORE = "d" * 32
JOB, NEXT_JOB = "a" * 32, "b" * 32
ROLE = "arn:aws:iam::123456789012:role/import"
INPUT, OUTPUT = "s3://in/a/", "s3://out/a/"
WHERE = {"datastoreId": DATASTORE, "jobId": JOB}

HTTP_STATUS = {
    "ValidationException": 400,
    "ServiceQuotaExceededException": 402,
    "AccessDeniedException": 403,
    "ResourceNotFoundException": 404,
    "ConflictException": 409,
    "ThrottlingException": 429,
    "InternalServerException": 500,
}


def job_properties(status: str, job_id: str = JOB, **more: Any) -> dict[str, Any]:
    return {
        "jobId": job_id,
        "jobName": "j",
        "jobStatus": status,
        "datastoreId": DATASTORE,
        "dataAccessRoleArn": ROLE,
        "inputS3Uri": INPUT,
        "outputS3Uri": OUTPUT,
        **more,
    }


def get_reply(status: str, job_id: str = JOB, **more: Any) -> dict[str, Any]:
    return {"jobProperties": job_properties(status, job_id, **more)}


def start_reply(job_id: str = JOB) -> dict[str, Any]:
    return {"datastoreId": DATASTORE, "jobId": job_id, "jobStatus": "SUBMITTED", "submittedAt": 0}


class ScriptedService(ThreadingHTTPServer):
    """Answers each request with the next line of the script: a reply, or the name of an error."""

    def __init__(self, script: list[dict[str, Any] | str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = list(script)
        self.requests: list[tuple[str, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedService

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.path, json.loads(body or b"{}")))
        line = self.server.script.pop(0)
        error = line if isinstance(line, str) else None
        self.send_response(HTTP_STATUS[error] if error else 200)
        if error:
            self.send_header("x-amzn-ErrorType", error)
        payload = json.dumps({"__type": error, "message": "because"} if error else line).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_request(self, *_: Any) -> None:
        """Keep the test output quiet."""


@contextmanager
def scripted_service(*script: dict[str, Any] | str) -> Iterator[ScriptedService]:
    with ScriptedService(list(script)) as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield service
        service.shutdown()
        thread.join()
