"""A DICOMweb server on loopback that goes wrong as a test wants it to: STOW-RS and one search, from memory."""

from __future__ import annotations

import json
from collections import deque
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pydicom

from tests.servers.serving import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Fault = Callable[["Handler", dict[str, bytes]], None]  # is given the instances of a request, to answer in its way


class Server:
    """The server's state.

    Attributes
    ----------
    held
        The files by SOPInstanceUID.
    requests
        The SOPInstanceUIDs of each Store Transaction that arrived whole.
    faults
        What the next answers are instead of the right ones, one each.
    always
        What every answer is, once ``faults`` is empty.
    search_status
        Of the answer to a search.
    authorizations
        As they came, one per request.
    """

    def __init__(self) -> None:
        self.url = ""
        self.held: dict[str, bytes] = {}
        self.requests: list[list[str]] = []
        self.searches: list[str] = []
        self.search_status = 200
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.authorizations: list[str | None] = []
        self.lengths: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.lock = Lock()


class Handler(BaseHTTPRequestHandler):
    """Answers Store and Search Transactions."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_state: Server

    def do_POST(self) -> None:
        state = self.server_state
        with state.lock:
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
        try:
            self._store(state)
        finally:
            with state.lock:
                state.at_once -= 1

    def _store(self, state: Server) -> None:
        length = self.headers["Content-Length"]
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return
        instances = parts(self.headers["Content-Type"], body)
        with state.lock:
            state.requests.append(list(instances))
            state.authorizations.append(self.headers["Authorization"])
            state.lengths.append(length)
            fault = state.faults.popleft() if state.faults else state.always
        (fault or Handler.take)(self, instances)

    def take(self, instances: dict[str, bytes]) -> None:
        """Store all, and say so."""
        self.server_state.held |= instances
        self.answer(200, module(stored=dict.fromkeys(instances)))

    def do_GET(self) -> None:
        (uid,) = parse_qs(urlsplit(self.path).query)["SOPInstanceUID"]
        self.server_state.searches.append(uid)
        found = [{"00080018": {"vr": "UI", "Value": [uid]}}] if uid in self.server_state.held else []
        self.answer(self.server_state.search_status, json.dumps(found).encode())

    def answer(self, status: int, body: bytes = b"", **head: str) -> None:
        """Answer whole."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/dicom+json", **head}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def parts(content_type: str, body: bytes) -> dict[str, bytes]:
    """Take a multipart body apart: the files by SOPInstanceUID."""
    head = Message()
    head["Content-Type"] = content_type
    assert head.get_content_type() == "multipart/related"
    assert head.get_param("type") == "application/dicom"
    boundary = f"--{head.get_param('boundary')}".encode()
    first, *files, last = body.split(boundary)
    assert (first, last) == (b"", b"--\r\n")
    contents = [
        file.removeprefix(b"\r\nContent-Type: application/dicom\r\n\r\n").removesuffix(b"\r\n") for file in files
    ]
    return {pydicom.dcmread(BytesIO(content), force=True).SOPInstanceUID: content for content in contents}


def module(stored: dict[str, int | None] | None = None, failed: dict[str, int | None] | None = None) -> bytes:
    """Return a Store Instances Response Module as JSON."""
    sequences = {"00081199": _items(stored or {}, "00081196"), "00081198": _items(failed or {}, "00081197")}
    return json.dumps({tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items}).encode()


def _items(reasons: dict[str, int | None], tag: str) -> list[dict[str, Any]]:
    return [
        {"00081155": {"vr": "UI", "Value": [uid]}} | ({tag: {"vr": "US", "Value": [code]}} if code is not None else {})
        for uid, code in reasons.items()
    ]


def refusal(status: int, body: bytes = b"no", **head: str) -> Fault:
    """Make an answer one that names no instance."""
    return lambda handler, _instances: handler.answer(status, body, **head)


def cut(handler: Handler, instances: dict[str, bytes]) -> None:
    """Store all, and break the connection before a word about it."""
    handler.server_state.held |= instances
    handler.close_connection = True


@contextmanager
def dicomweb_server() -> Iterator[Server]:
    """Yield an empty server."""
    state = Server()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"server_state": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    with running(server):
        yield state
