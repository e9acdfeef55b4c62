"""Programs of this machine may call a local server; a web page of anybody else may not, by whatever name it comes."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

import pytest

from localaws.callers import why_refused
from localaws.server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

EVIL = "http://evil.example"
OWN = [
    {"host": "127.0.0.1:4566"},
    {"host": "127.0.0.1"},
    {"host": "127.8.9.10:80"},
    {"host": "LocalHost:4566"},
    {"host": "localhost.:4566"},
    {"host": "[::1]:4566"},
    {"host": "[::1]"},
    {"host": "airlock-archive.localhost:4566"},  # a bucket, in S3's virtual-hosted form
    {"host": "S3:4566"},  # allowed by name
    {"host": "127.0.0.1:4566", "origin": "http://127.0.0.1:4566", "sec-fetch-site": "same-origin"},
    {"host": "Localhost:4566", "origin": "https://localhost:4566"},
    {"host": "127.0.0.1:4566", "sec-fetch-site": "none"},  # a person typed the address
]
OTHERS = [
    {},
    {"host": ""},
    {"host": "rebind.evil.example:4566"},
    {"host": "localhost.evil.example:4566"},
    {"host": "evil-localhost:4566"},
    {"host": "127.0.0.1.evil.example:4566"},
    {"host": "127.0.0.1@evil.example"},
    {"host": "localhost..:4566"},
    {"host": "localhost:port"},
    {"host": "192.168.1.5:4566"},
    {"host": "0.0.0.0:4566"},
    {"host": "[::1].evil.example"},
    {"host": "[2001:db8::1]:4566"},
    {"host": "::1"},
    {"host": "bucket.s3:4566"},
    {"host": "localhost:4566,evil.example"},  # two headers
    {"host": "127.0.0.1:4566", "origin": EVIL},
    {"host": "127.0.0.1:4566", "origin": "null"},
    {"host": "127.0.0.1:4566", "origin": ""},
    {"host": "127.0.0.1:4566", "origin": "http://127.0.0.1:8080"},  # the page of another program of this machine
    {"host": "127.0.0.1:4566", "origin": "http://localhost:4566"},
    {"host": "127.0.0.1:4566", "origin": "http://127.0.0.1:4566.evil.example"},
    {"host": "127.0.0.1:4566", "origin": "http://127.0.0.1:4566 http://evil.example"},
    {"host": "127.0.0.1:4566", "origin": "file://127.0.0.1:4566"},
    {"host": "127.0.0.1:4566", "sec-fetch-site": "cross-site"},  # an image, a script or a link: these have no Origin
    {"host": "127.0.0.1:4566", "sec-fetch-site": "same-site"},
]
FOREIGN = [{"host": "rebind.evil.example"}, {"origin": EVIL}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]


def ask(url: str, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """Send exactly these headers; return the status, the headers by their names in lower case, and the body."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"host": url.removeprefix("http://")} | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


@pytest.mark.parametrize("headers", OWN)
def test_programs_of_this_machine_and_the_servers_own_pages_may_call(headers: dict[str, str]) -> None:
    assert why_refused(headers.get, ["s3"]) is None


@pytest.mark.parametrize("headers", OTHERS)
def test_whoever_else_calls_is_refused_in_a_sentence(headers: dict[str, str]) -> None:
    reason = why_refused(headers.get, ["s3"])
    assert reason is not None
    assert reason.endswith(".")


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    with serve(allowed_host=("health",)) as url:
        yield url


@pytest.mark.parametrize(
    "headers", [{"host": "rebind.evil.example"}, {"origin": EVIL}, {"sec-fetch-site": "same-site"}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/_localaws/calls"),
        ("PUT", "/_localaws/faults"),
        ("OPTIONS", "/_localaws/faults"),
        ("GET", "/datastore/x/r4/Patient"),
    ],
)
def test_the_emulator_does_nothing_for_others(emulator: str, method: str, path: str, headers: dict[str, str]) -> None:
    status, answered, body = ask(emulator, method, path, headers)
    assert status == 403
    assert answered["x-amzn-errortype"] == "AccessDeniedException"
    assert "is not allowed here" in body or "may not call this server" in body


def test_the_emulator_answers_to_the_names_that_it_is_told_and_sends_no_cors_headers(emulator: str) -> None:
    status, answered, body = ask(emulator, "GET", "/_localaws/health", {"host": "health:4567"})
    assert (status, json.loads(body)["status"]) == (200, "ready")
    assert not [name for name in answered if name.startswith("access-control-")]
