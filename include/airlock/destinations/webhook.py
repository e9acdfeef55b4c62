"""An HTTPS endpoint, with signed requests.

The header ``Airlock-Signature`` is ``t=<seconds since 1970>,v1=<hex>``, where v1 is HMAC-SHA256 of ``<t>.<body>`` under
the shared secret. The receiver computes the same, compares in constant time, and refuses an old t, so that a recorded
request cannot be replayed later. ``Idempotency-Key`` is the message's deduplication id.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING

import httpx

from airlock.destinations.message import DestinationError
from airlock.destinations.web import retry_after

if TYPE_CHECKING:
    from airlock.destinations.message import Message

SIGNATURE = "Airlock-Signature"
IDEMPOTENCY_KEY = "Idempotency-Key"
# These 4xx statuses are about the endpoint or the moment; any other refuses the message because of its content.
_LATER = frozenset({401, 402, 403, 404, 405, 407, 408, 409, 421, 423, 425, 429, 451})


class Webhook:
    """Posts each message to an endpoint; only a 2xx status means success, and redirects are not followed.

    Parameters
    ----------
    client
        The client for all requests, from `client_for`.
    url
        The endpoint.
    secret
        The secret shared with the endpoint.
    """

    def __init__(self, client: httpx.Client, url: str, secret: str) -> None:
        self.client = client
        self.url = url
        self._secret = secret.encode()

    def send(self, message: Message) -> None:
        """Post the message; see `Destination.send`."""
        body = message.to_json().encode()
        headers = {
            "Content-Type": "application/json",
            IDEMPOTENCY_KEY: message.deduplication_id,
            SIGNATURE: signature(self._secret, body, int(time.time())),
        }
        try:
            # Only the head of the answer is read: its body may be endless.
            with self.client.stream("POST", self.url, content=body, headers=headers) as reply:
                status, wait = reply.status_code, retry_after(reply.headers.get("Retry-After"))
        except httpx.TimeoutException:
            raise DestinationError("timeout", retryable=True) from None
        except httpx.TransportError as error:
            raise DestinationError(type(error).__name__, retryable=True) from None
        if not 200 <= status < 300:
            retryable = status in _LATER or not 400 <= status < 500
            raise DestinationError(f"http_{status}", retryable=retryable, retry_after=wait)


def client_for(timeout_seconds: float) -> httpx.Client:
    """Return a client for `Webhook`.

    Parameters
    ----------
    timeout_seconds
        The longest time to connect, to write, and between two reads of an answer.
    """
    return httpx.Client(timeout=timeout_seconds, follow_redirects=False)


def signature(secret: bytes, body: bytes, moment: int) -> str:
    """Return the signature header of a body that is sent at this moment, in seconds since 1970."""
    signed = hmac.new(secret, f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={signed}"
