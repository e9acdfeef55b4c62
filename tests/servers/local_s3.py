"""The local S3 as ``make run`` and docker-compose.yaml start it: a process for programs of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def local_s3(*flags: str) -> Iterator[str]:
    """Yield the endpoint of an empty server on a free port, started with further flags."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "airlock_local.s3_server", "--host", "127.0.0.1", "--port", str(port), *flags]
    with subprocess.Popen(command) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            until("the local S3 answers", lambda: _answers(f"{url}/moto-api/"), 60)
            yield url
        finally:
            process.terminate()
    assert process.returncode == 0, "SIGTERM did not end it in an orderly way"


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True
