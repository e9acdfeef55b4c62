"""The counting proxy: every request and byte is counted, answers are whole, and none comes before its moment."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from benchmarks.proxy import Dials, proxy

BODY = bytes(range(256)) * 4096


class Upstream(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_):
        pass


@contextmanager
def upstream():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    with upstream() as address, proxy(address, tmp_path_factory.mktemp("proxy")) as running:
        yield running


def test_an_answer_passes_whole_and_is_counted(before) -> None:
    dials = Dials(before.dials)

    with httpx.Client() as client:
        client.get(before.endpoint)
        counted = dials.counts()
        bodies = [client.get(before.endpoint).content for _ in range(3)]

    counts = dials.counts().since(counted)
    assert bodies == [BODY] * 3
    assert (counts.requests, counts.connections) == (3, 0)
    assert 3 * len(BODY) < counts.bytes < 3 * (len(BODY) + 1000)


def test_a_first_byte_waits_for_its_moment(before) -> None:
    dials = Dials(before.dials)
    with httpx.Client() as client:
        client.get(before.endpoint)
        dials.first_byte = 0.6
        try:
            took = client.get(before.endpoint).elapsed
        finally:
            dials.first_byte = 0

    assert took.total_seconds() > 0.6 / 4  # five deviations of its logarithm below the median


def test_a_server_that_is_gone_ends_the_connection(tmp_path) -> None:
    with upstream() as address:
        pass

    # Closed behind the request, or reset where its bytes have not been read by then.
    ended = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
    with proxy(address, tmp_path) as running, pytest.raises(ended):
        httpx.get(running.endpoint)
