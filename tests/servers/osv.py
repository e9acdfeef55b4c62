"""A small server with the API of OSV, for the audit of dependencies: it knows the vulnerabilities that it is given.

https://google.github.io/osv.dev/post-v1-query: a POST with a package and a version, answered with its vulnerabilities.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

from tests.servers.serving import QuietHandler, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def osv_server(known: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Give the address of a server that knows one vulnerability, by its id, of each of these packages and versions."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = known.get((asked["package"]["name"], asked["version"]))
            answer = {"vulns": [_vulnerability(found, asked["package"]["name"])]} if found else {}
            self.answer(200, json.dumps(answer))

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"


def _vulnerability(name: str, package: str) -> dict[str, object]:
    affected = {"package": {"ecosystem": "PyPI", "name": package}, "ranges": []}
    times = {"modified": "2026-01-01T00:00:00Z", "published": "2026-01-01T00:00:00Z"}
    return {"id": name, "details": "For a test.", "affected": [affected], **times}
