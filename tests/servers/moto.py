"""An S3 (and SQS, STS, EventBridge) server on loopback: moto in a thread of the test process."""

from __future__ import annotations

import logging
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moto.server import ThreadedMotoServer

from airlock_local.s3_rules import apply_s3_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

apply_s3_rules()


@contextmanager
def moto_server(port: int = 0) -> Iterator[str]:
    """Yield the endpoint of an empty server, by default on a free port; moto keeps one state per process: use one."""
    access_log = logging.getLogger("werkzeug")
    level = access_log.level
    access_log.setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        reset_moto(endpoint)
        yield endpoint
    finally:
        server.stop()
        access_log.setLevel(level)


def reset_moto(endpoint: str) -> None:
    """Forget every bucket, queue and event bus."""
    request = urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")
    urllib.request.urlopen(request, timeout=60).close()
