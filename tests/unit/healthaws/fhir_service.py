"""A FHIR interface that answers from a script, and checks each signature as AWS documents it."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE", "wJalrXUtnFEMI"
BASE = "/datastore/" + "5" * 32 + "/r4/"
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<scope>[^,]+), "
    r"SignedHeaders=(?P<signed>[^,]+), Signature=(?P<is>\w+)"
)


@dataclass(frozen=True)
class Answer:
    """One answer of the script: JSON, or raw bytes; no status breaks the connection, and late is never in time."""

    status: int | None = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    late: bool = False


@dataclass(frozen=True)
class Asked:
    """One request, as it came over the wire; a body that is not JSON is a text."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Any
    signature_is_valid: bool


def outcome(*issues: Mapping[str, Any]) -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": list(issues)}


def issue(code: str, severity: str = "error", **more: Any) -> dict[str, Any]:
    return {"severity": severity, "code": code, **more}


class FhirService(ThreadingHTTPServer):
    """Answers each request with the next line of the script."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Answer] = []
        self.asked: list[Asked] = []
        self.patience_is_over = threading.Event()
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}{BASE}"

    def says(self, *answers: Answer) -> None:
        """Begin a new script."""
        self.script, self.asked = list(answers), []

    def use_certificate(self, context: ssl.SSLContext) -> None:
        """Serve HTTPS from now on."""
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"


class _Handler(BaseHTTPRequestHandler):
    server: FhirService
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        valid = _is_signed(self.command, path, query, self.headers, body)
        is_json = "json" in self.headers.get("Content-Type", "json")
        content = json.loads(body or b"null", parse_float=Decimal) if is_json else body.decode()
        asked = Asked(self.command, path.removeprefix(BASE), query, self.headers, content, valid)
        self.server.asked.append(asked)
        answer = self.server.script.pop(0)
        if answer.late:
            self.server.patience_is_over.wait(timeout=10)
        if answer.status is None or answer.late:
            self.close_connection = True
            return
        payload = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        payload = b"" if answer.body is None else payload
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/fhir+json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_request(self, *_: Any) -> None:
        """Keep the test output quiet."""


def _is_signed(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Check a signature: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html."""
    found = AUTHORIZATION.fullmatch(headers.get("Authorization", ""))
    if not found or found["key"] != ACCESS_KEY:
        return False
    date, region, service, _ = found["scope"].split("/")
    pairs = sorted(_canonical(pair) for pair in query.split("&") if pair)
    lines = [f"{name}:{' '.join(headers[name].split())}" for name in found["signed"].split(";")]
    payload = hashlib.sha256(body).hexdigest()
    request = "\n".join([method, quote(path, safe="/~"), "&".join(pairs), *lines, "", found["signed"], payload])
    digest = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{SECRET_KEY}".encode()
    for part in (date, region, service, "aws4_request"):
        key = _hmac(key, part)
    to_sign = "\n".join(["AWS4-HMAC-SHA256", headers["X-Amz-Date"], found["scope"], digest])
    return service == "healthlake" and hmac.compare_digest(_hmac(key, to_sign).hex(), found["is"])


def _canonical(pair: str) -> str:
    """Decode and encode again, as a server does; what was not encoded on the way, does not come out the same."""
    name, _, value = pair.partition("=")
    return f"{quote(unquote(name), safe='-_.~')}={quote(unquote(value), safe='-_.~')}"


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


@contextmanager
def fhir_service() -> Iterator[FhirService]:
    with FhirService() as service:
        thread = threading.Thread(target=service.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield service
        service.shutdown()
        thread.join()
