"""A request is signed, known again, and taken only where the endpoint says so."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING

import pytest

from airlock.destinations import DestinationError
from airlock.destinations.webhook import IDEMPOTENCY_KEY, SIGNATURE, Webhook, client_for
from tests.unit.airlock.destinations.messages import BODY, MESSAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.webhook import Endpoint

SECRET = "known to two"


@pytest.fixture
def hook(endpoint: Endpoint) -> Iterator[Webhook]:
    with client_for(0.5) as client:
        yield Webhook(client, endpoint.url, SECRET)


def refused(hook: Webhook) -> DestinationError:
    with pytest.raises(DestinationError) as info:
        hook.send(MESSAGE)
    return info.value


def test_the_receiver_can_check_who_sent_it_and_when(endpoint: Endpoint, hook: Webhook) -> None:
    hook.send(MESSAGE)
    ((headers, body),) = endpoint.requests
    assert json.loads(body) == BODY
    assert headers[IDEMPOTENCY_KEY] == MESSAGE.deduplication_id
    moment, signed = (part.partition("=")[2] for part in headers[SIGNATURE].split(","))
    assert hmac.new(SECRET.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest() == signed
    assert abs(int(moment) - time.time()) < 60
    assert SECRET not in str(headers)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_2xx_means_taken(endpoint: Endpoint, hook: Webhook, status: int) -> None:
    endpoint.status = status
    hook.send(MESSAGE)
    hook.send(MESSAGE)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, True) for status in (301, 307, 401, 403, 404, 408, 409, 425, 429, 500, 502, 503)),
        *((status, False) for status in (400, 410, 413, 422)),
    ],
)
def test_anything_else_does_not(endpoint: Endpoint, hook: Webhook, status: int, retryable: bool) -> None:
    endpoint.status = status
    endpoint.headers = {"Location": endpoint.url} if status < 400 else {}
    error = refused(hook)
    assert (error.code, error.retryable, error.retry_after) == (f"http_{status}", retryable, None)
    assert len(endpoint.requests) == 1, "a redirect is not followed"


def test_the_endpoint_may_ask_to_be_left_alone(endpoint: Endpoint, hook: Webhook) -> None:
    endpoint.status, endpoint.headers = 429, {"Retry-After": "120"}
    assert refused(hook).retry_after == 120


def test_an_endpoint_that_does_not_answer_is_not_waited_for(endpoint: Endpoint, hook: Webhook) -> None:
    endpoint.silent = True
    assert (refused(hook).code, refused(hook).retryable) == ("timeout", True)


def test_an_endpoint_that_hangs_up_may_have_it_or_not(endpoint: Endpoint, hook: Webhook) -> None:
    endpoint.cut = True
    error = refused(hook)
    assert (error.code, error.retryable) == ("RemoteProtocolError", True)


def test_an_endpoint_that_died_gets_it_when_it_is_back(endpoint: Endpoint, hook: Webhook) -> None:
    endpoint.die()
    assert (refused(hook).code, refused(hook).retryable) == ("ConnectError", True)
    endpoint.start()
    hook.send(MESSAGE)
    assert len(endpoint.requests) == 1
