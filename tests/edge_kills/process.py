"""An edge in processes of its own, which can be killed and started again over the same state folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psutil
from benchmarks.dicom_sender import SUCCESS, RefusedError, Sender
from botocore.config import Config

from airlock_edge.part10 import make_header
from tests.servers.edge import BUCKET, CALLER, TITLE, write_settings
from tests.servers.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.dicom_sender import Item

    from tests.edge_kills.calls import Plan

ROOT = Path(__file__).parents[2]
CHILDREN = Path(__file__).with_name("children")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "benchbench"}  # benchmarks.seaweed's identity
PATIENCE = 60  # seconds
SPOOL = {"redundant": True, "most_retry_seconds": 1}


class EdgeProcess:
    """An edge.

    Parameters
    ----------
    folder
        For its settings, its state and its log.
    endpoint
        Of S3.
    prefix
        Of its keys, such as "walk-1/".
    changes
        Of its settings.
    """

    def __init__(self, folder: Path, endpoint: str, prefix: str, **changes: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / "edge.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)
        given = {
            "listen": {"address": "127.0.0.1", "port": self.port},
            "destination": {
                "uri": f"s3://{BUCKET}/{prefix}",
                "region_name": "us-east-1",
                "endpoint_url": endpoint,
                "timeout_seconds": 30,
            },
            "spool": SPOOL,
            "manifests": {"quiet_seconds": 0.5},
        }
        self._settings = write_settings(folder, endpoint, **(given | changes))
        self.state = Path(changes.get("state", folder / "state"))

    def start(self, plan: Plan | None = None, command: Sequence[str] = ()) -> None:
        """Start it; it listens some time later, or is killed before."""
        paths = [CHILDREN, ROOT / "include", ROOT / "plugins", ROOT]
        environment = os.environ | CREDENTIALS | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
        environment.pop("EDGE_CALLS", None)
        if plan is not None:
            environment["EDGE_CALLS"] = plan.encode()
        program = [*command, sys.executable, "-m", "airlock_edge", "run", str(self._settings)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(program, stdout=log, stderr=log, env=environment)

    @property
    def pid(self) -> int:
        """The id of the process that listens."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process that listens runs."""
        return self._process is not None and self._process.poll() is None

    def wait_until_listening(self) -> bool:
        """Return when it listens; False if it has ended before."""
        until("the edge listens or has ended", lambda: self._listens() or not self.is_running, PATIENCE)
        return self.is_running

    def _listens(self) -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def uploads(self) -> list[int]:
        """Return the ids of the processes that upload."""
        with suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children()]
        return []

    def kill(self) -> None:
        """Kill the process that listens, as kill -9 does, and wait for its end; the others end on their own."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)

    def wait_for_end(self) -> None:
        """Return when the process that listens has ended."""
        assert self._process is not None
        self._process.wait(PATIENCE)

    def stop(self) -> None:
        """Stop it in an orderly way."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(PATIENCE)

    def spooled(self) -> list[str]:
        """Return the names of the files in the spool."""
        folder = self.state / "spool"
        return [path.name for path in folder.iterdir()] if folder.exists() else []

    def wait_until_drained(self, patience: float = PATIENCE) -> None:
        """Return when nothing waits for S3."""
        until("the spool is empty", lambda: not self.spooled(), patience)


@contextmanager
def running(edge: EdgeProcess, plan: Plan | None = None) -> Iterator[EdgeProcess]:
    """Run an edge within the block, which begins when it listens."""
    edge.start(plan)
    try:
        assert edge.wait_until_listening(), edge.log.read_text()
        yield edge
    finally:
        edge.stop()


class S3Objects:
    """The objects below a prefix.

    Parameters
    ----------
    endpoint
        Of S3.
    prefix
        Of the keys.
    """

    def __init__(self, endpoint: str, prefix: str) -> None:
        session = boto3.Session(*CREDENTIALS.values(), region_name="us-east-1")
        self._client = session.client(
            "s3", endpoint_url=endpoint, config=Config(max_pool_connections=32, s3={"addressing_style": "path"})
        )
        self._prefix = prefix

    def make_bucket(self) -> None:
        """Make the bucket."""
        self._client.create_bucket(Bucket=BUCKET)

    def list_keys(self) -> list[str]:
        """Return the keys of the DICOM files."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self._prefix)
        found = [one["Key"] for page in pages for one in page.get("Contents", [])]
        return [key for key in found if key.endswith(".dcm")]

    def body(self, key: str) -> bytes:
        """Return the content of an object."""
        return bytes(self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def find(self, key: str) -> bytes | None:
        """Return the content of an object, or None."""
        try:
            return self.body(key)
        except self._client.exceptions.NoSuchKey:
            return None

    def bodies(self) -> list[bytes]:
        """Return the contents of the DICOM files."""
        return [self.body(key) for key in self.list_keys()]

    def delete(self) -> None:
        """Delete the DICOM files."""
        for key in self.list_keys():
            self._client.delete_object(Bucket=BUCKET, Key=key)


def stored_file(item: Item) -> bytes:
    """Return the file that the edge makes of an object."""
    header = make_header(item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax)
    return header + b"".join(item.data_set)


def send_all(port: int, items: Sequence[Item]) -> list[Item]:
    """Send objects over one association; return those that were acknowledged before it ended."""
    acknowledged: list[Item] = []
    contexts = {(item.sop_class_uid, item.transfer_syntax) for item in items}
    with suppress(RefusedError, OSError):
        sender = Sender(("127.0.0.1", port), TITLE, contexts, calling=CALLER, patience=PATIENCE)
        try:
            for item in items:
                if sender.store(item) == SUCCESS:
                    acknowledged.append(item)  # noqa: PERF401 - the association may end within the loop
            sender.release()
        finally:
            sender.close()
    return acknowledged
