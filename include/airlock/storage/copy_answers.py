"""The outcome of a CopyObject request: S3's error code, or the class of botocore's errors that names the same failure.

S3 may begin its answer before the copy is made, and so report an error below the status 200.
"""

from __future__ import annotations

import re

import aiohttp

from airlock.storage.s3 import BUSY

BROKEN_OFF = "IncompleteReadError"
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_BUSY = BUSY | {"RequestLimitExceeded", "RequestThrottled", "TooManyRequests", "429", "OperationAborted"}
_COPIED = re.compile(rb"</(?:\w+:)?CopyObjectResult\s*>\s*\Z")
_CODE = re.compile(rb"<(?:\w+:)?Error(?:\s[^>]*)?>.*?<(?:\w+:)?Code>([\w.]+)</", re.DOTALL)
_FAILURES: tuple[tuple[type[Exception], str], ...] = (  # the first that fits
    (aiohttp.ClientProxyConnectionError, "ProxyConnectionError"),
    (aiohttp.ClientHttpProxyError, "ProxyConnectionError"),
    (aiohttp.ClientSSLError, "SSLError"),
    (aiohttp.ConnectionTimeoutError, "ConnectTimeoutError"),
    (TimeoutError, "ReadTimeoutError"),
    (aiohttp.ClientConnectorError, "EndpointConnectionError"),
    (aiohttp.ClientPayloadError, BROKEN_OFF),
)


def read_answer(status: int, body: bytes) -> str | None:
    """Return the error code of an answer; None if the object was copied."""
    if status == 200 and _COPIED.search(body):
        return None
    if found := _CODE.search(body):
        return found[1].decode()
    if status == 200:
        return BROKEN_OFF
    return "PermanentRedirect" if 300 <= status < 400 else str(status)


def name_failure(error: Exception) -> str:
    """Return the class of botocore's errors for one of aiohttp's, whose text quotes the request."""
    return next((name for kind, name in _FAILURES if isinstance(error, kind)), "ConnectionClosedError")


def is_expired(code: str) -> bool:
    """Return whether S3 refuses the credentials because their time is over."""
    return code in _EXPIRED


def may_pass(status: int, code: str) -> bool:
    """Return whether an error may be over when the request is sent again."""
    return status == 200 or status >= 500 or code in _BUSY or code.endswith("ThrottlingException")
