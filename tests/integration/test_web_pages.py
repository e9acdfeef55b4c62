"""In a real browser: no page of anybody else reads, writes or switches anything at the two local servers."""

from __future__ import annotations

import http.server
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from airlock_local.buckets import local_client
from localaws.server import serve
from tests.browser import open_browser
from tests.servers.local_s3 import local_s3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.browser import Page

pytestmark = [pytest.mark.proof, pytest.mark.slow]

# A simple request, which a browser sends without asking first; moto checks no signature.
PRESIGNED = "patient.dcm?AWSAccessKeyId=x&Signature=y&Expires=99999999999"
FORM = (
    "(() => { const form = new FormData(); form.append('key', 'planted'); form.append('file', 'x'); return form; })()"
)
FETCH = "fetch(%s, %s).then(async answer => `${answer.status} ${await answer.text()}`, error => error.name)"
FAULT = json.dumps([{"kind": "throttle_storm"}])
EVERY_NAME_LEADS_HERE = "--host-resolver-rules=MAP *.example 127.0.0.1"


@contextmanager
def foreign_site() -> Iterator[str]:
    """Yield the address of pages of somebody else's, ``evil.example``; those below ``null`` have no origin."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<title>evil</title><p>a page of somebody else</p>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            if self.path == "/null":
                self.send_header("Content-Security-Policy", "sandbox allow-scripts")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://evil.example:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder: Path = tmp_path_factory.mktemp("browser")
    with open_browser(folder, EVERY_NAME_LEADS_HERE) as opened:
        yield opened


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with local_s3() as url:
        client = local_client(url)
        client.create_bucket(Bucket="archive")
        client.put_object(Bucket="archive", Key="patient.dcm", Body=b"Rita", ContentType="text/plain")
        yield url


@pytest.fixture(scope="module")
def health() -> Iterator[str]:
    with serve() as url:
        yield url


def fetched(page: Page, url: str, options: str = "{}") -> str:
    """Return what a script of the page is answered, or the name of the browser's error."""
    return str(page.evaluate(FETCH % (json.dumps(url), options)))


def contents(s3: str) -> dict[str, bytes]:
    client = local_client(s3)
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="archive")["Contents"]]
    return {key: client.get_object(Bucket="archive", Key=key)["Body"].read() for key in keys}


def named(url: str, host: str) -> str:
    return url.replace("127.0.0.1", host)


@pytest.mark.parametrize("origin", ["evil.example", "null"])
def test_a_foreign_page_reads_and_writes_nothing(page: Page, s3: str, health: str, origin: str) -> None:
    with foreign_site() as site:
        page.open(f"{site}{origin}")
        page.shows("a page of somebody else")
        assert origin in page.evaluate("origin")
        assert fetched(page, f"{s3}/archive/{PRESIGNED}") == "TypeError"
        assert fetched(page, f"{s3}/archive/planted", "{method: 'PUT', body: 'x'}") == "TypeError"
        for no_cors in ("{mode: 'no-cors'}", f"{{mode: 'no-cors', method: 'POST', body: {FORM}}}"):
            fetched(page, f"{s3}/archive", no_cors)
        assert fetched(page, f"{health}/_localaws/calls") == "TypeError"
        assert fetched(page, f"{health}/_localaws/faults", f"{{method: 'PUT', body: {FAULT!r}}}") == "TypeError"
    assert contents(s3) == {"patient.dcm": b"Rita"}


def test_a_link_of_a_foreign_page_leads_to_a_refusal(page: Page, s3: str) -> None:
    with foreign_site() as site:
        page.open(site)
        page.shows("a page of somebody else")
        page.evaluate(f"location = {f'{s3}/archive/{PRESIGNED}'!r}")
        page.shows("may not call this server")


def test_a_foreign_name_that_leads_to_this_machine_is_refused(page: Page, s3: str, health: str) -> None:
    """A page that its own name server has moved here (DNS rebinding) is of the server's own origin."""
    page.open(f"{named(s3, 'archive.example')}/{PRESIGNED}")
    page.shows("is not allowed here")
    assert fetched(page, f"/{PRESIGNED}").startswith("403 ")
    page.open(f"{named(health, 'rebind.example')}/_localaws/calls")
    page.shows("is not allowed here")
    assert fetched(page, "/_localaws/faults", f"{{method: 'PUT', body: {FAULT!r}}}").startswith("403 ")


def test_a_person_may_open_an_address_and_the_servers_own_pages_work(page: Page, s3: str, health: str) -> None:
    page.open(f"{named(s3, 'archive.localhost')}/{PRESIGNED}")
    page.shows("Rita")
    page.open(f"{s3}/moto-api/")
    page.shows("Moto")
    assert fetched(page, "/moto-api/seed?a=1", "{method: 'POST'}").startswith("200 ")
    page.open(f"{health}/_localaws/health")
    page.shows("ready")
