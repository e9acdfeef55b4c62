"""An edge on loopback in the test's process, with a moto server as S3."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
import yaml

from airlock_edge.node import Node
from airlock_edge.settings import load_settings
from airlock_edge.uploader import Share, Uploader
from tests.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKET, PREFIX, TITLE, CALLER = "archive", "in/", "AIRLOCK", "MODALITY"
START_PATIENCE = 3 * PATIENCE  # seconds; on two cores with a load of 12 the imports took 37 s


def write_settings(folder: Path, endpoint: str, **changes: Any) -> Path:
    """Write a settings file into a folder and return its path; the state folder lies beside it."""
    content = {
        "schema": "airlock.edge/1",
        "site": "north",
        "state": str(folder / "state"),
        "listen": {"address": "127.0.0.1", "port": 0},
        "peers": [{"ae_title": CALLER, "addresses": ["127.0.0.1"]}],
        "destination": {
            "uri": f"s3://{BUCKET}/{PREFIX}",
            "region_name": "us-east-1",
            "endpoint_url": endpoint,
            "timeout_seconds": 30,
        },
        "manifests": {"quiet_seconds": 3600},  # none between the objects of a test on a busy machine
    }
    path = folder / "edge.yaml"
    # By default it takes objects also where a disk of tests is nearly full.
    spool = {"refuse_percent": 99} | changes.pop("spool", {})
    path.write_text(yaml.safe_dump(content | {"spool": spool} | changes))
    return path


@contextmanager
def edge(folder: Path, endpoint: str, *, uploads: bool = False, **changes: Any) -> Iterator[Node]:
    """Yield an edge on a free port; without *uploads* call `upload_spool`, which starts no process."""
    path = write_settings(folder, endpoint, **changes)
    with Node(load_settings(path), path, uploads=uploads) as node:
        yield node


class EdgeProcess:
    """An edge as operators run it.

    Parameters
    ----------
    folder
        Of its settings, its state and its log.
    path
        Its settings file.
    """

    def __init__(self, folder: Path, path: Path) -> None:
        self.state = folder / "state"
        self._log = folder / "log"
        command = [sys.executable, "-m", "airlock_edge", "run", path]
        with self._log.open("ab") as log:
            self._begun = log.tell()
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.port = int(until("the edge listens", self._find_port, START_PATIENCE))

    @property
    def log(self) -> str:
        """What it has logged since this start."""
        return self._log.read_bytes()[self._begun :].decode(errors="replace")  # a line may be half written

    def _find_port(self) -> str:
        assert self.process.poll() is None, self.log
        found = re.findall(r"listening on port (\d+) as", self.log)
        return found[-1] if found else ""

    def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        """End it and return its exit status."""
        self.process.send_signal(by)
        return self.process.wait(START_PATIENCE)  # a process that uploads may just be starting


@contextmanager
def edge_process(folder: Path, endpoint: str, **changes: Any) -> Iterator[EdgeProcess]:
    """Yield an edge in a process of its own, on a free port."""
    running = EdgeProcess(folder, write_settings(folder, endpoint, **changes))
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)


def upload_spool(node: Node) -> int:
    """Upload what waits in the spool of an edge, and return how many objects are on S3 by that."""
    with ThreadPoolExecutor(2) as pool, Uploader(node.settings, Share()) as uploader:
        return uploader.upload_waiting(pool)


def data_set_of(body: bytes) -> bytes:
    """Return what follows the file meta group of a file."""
    return body[144 + int.from_bytes(body[140:144], "little") :]


class Objects:
    """The objects of the bucket.

    Parameters
    ----------
    endpoint
        Of S3.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    @cached_property
    def client(self) -> Any:
        """A client of the server."""
        return boto3.session.Session().client("s3", region_name="us-east-1", endpoint_url=self.endpoint)

    def bodies(self) -> dict[str, bytes]:
        """Return every object by its key."""
        listed = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {one["Key"]: self.client.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read() for one in listed}

    def checksum(self, key: str) -> str:
        """Return the SHA-256 that S3 has of an object, in base64."""
        return str(self.client.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")["ChecksumSHA256"])
