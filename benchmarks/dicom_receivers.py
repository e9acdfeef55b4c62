"""The receivers of `benchmarks.edge`: Airlock's edge by kind of storage, dcmtk's storescp, Orthanc, pynetdicom's AE.

Each is a context manager that starts it, with TLS and client certificates where certificates are given, and yields it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import psutil
import yaml
from tests.servers.orthanc import Orthanc
from tests.servers.ports import free_port

from benchmarks.dicom_sender import CALLING
from benchmarks.seaweed import ACCESS_KEY, REGION, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from benchmarks.dicom_sender import Certificates

TITLE = "AIRLOCK"
BUCKET = "edge-bench"
MOST_PDU = 128 * 1024
NO_NAGLE = {"TCP_NODELAY": "1"}  # dcmtk, and so Orthanc, has Nagle's algorithm by default: 40 ms for each response
_READY_WITHIN, _DRAINED_WITHIN = 60.0, 600.0  # seconds
_LOOK_SECONDS = 0.2  # between two looks at the memory: listing the processes takes some milliseconds
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE).search
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


@dataclass(frozen=True)
class Receiver:
    """A running receiver.

    Attributes
    ----------
    port
        Where it listens.
    processes
        Its processes.
    folder
        What it stores is in here.
    spool
        The folder of objects that are acknowledged and wait for S3, where there is one that is emptied.
    """

    port: int
    processes: tuple[psutil.Process, ...]
    folder: Path
    spool: Path | None = None

    def cpu_seconds(self) -> float:
        """Return the seconds of its processes so far, with those of children that have ended."""
        return sum(_cpu(process) for process in self.processes)

    @contextmanager
    def watch_memory(self) -> Iterator[dict[int, float]]:
        """Yield the peak resident memory of each of its processes in the block, in MiB; complete when the block ends.

        The kernel counts the peak (VmHWM). A process that ends within the block counts as of the last look at it.
        """
        peaks: dict[int, float] = {}
        ending = Event()

        def look() -> None:
            while not ending.wait(_LOOK_SECONDS):
                self._note_peaks(peaks)

        for process in self._list_processes():
            with suppress(OSError):  # it has ended
                Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")  # forget the peak before
        thread = Thread(target=look)
        thread.start()
        try:
            yield peaks
        finally:
            ending.set()
            thread.join()
            self._note_peaks(peaks)

    def _list_processes(self) -> list[psutil.Process]:
        return [one for process in self.processes for one in (process, *process.children(recursive=True))]

    def _note_peaks(self, peaks: dict[int, float]) -> None:
        for process in self._list_processes():
            with suppress(OSError, TypeError):  # it has ended, and has no memory any more
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
                peaks[process.pid] = int(_PEAK(status)[1]) / 1024  # type: ignore[index]

    def wait_until_drained(self) -> None:
        """Return when nothing waits for S3.

        Raises
        ------
        RuntimeError
            If something waits after ten minutes.
        """
        until = time.monotonic() + _DRAINED_WITHIN
        while self.spool is not None and any(self.spool.iterdir()):
            if time.monotonic() > until:
                raise RuntimeError(f"objects wait for S3 in {self.spool} after {_DRAINED_WITHIN:.0f} s")
            time.sleep(0.02)


def _cpu(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass(frozen=True)
class Place:
    """Where receivers run.

    Attributes
    ----------
    folder
        Has a folder for each.
    s3
        The endpoint of an S3 with the bucket `BUCKET`.
    tls
        The certificates of both ends, or None.
    """

    folder: Path
    s3: str
    tls: Certificates | None

    def make(self, name: str) -> Path:
        """Return a new folder for a receiver."""
        path = self.folder / name
        path.mkdir()
        return path

    @property
    def files(self) -> list[str]:
        """The files of TLS as arguments of our own programs."""
        return [] if self.tls is None else [str(self.tls.authority), str(self.tls.certificate), str(self.tls.key)]


@contextmanager
def _running(command: Sequence[str], port: int, folder: Path, **more: str) -> Iterator[psutil.Process]:
    """Run a program until the end of the block, which begins when its port is open."""
    environment = os.environ | {"TMPDIR": str(folder)} | more
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603
    try:
        _wait_for(port, lambda: process.poll() is None, Path(log.name))
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, is_running: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + _READY_WITHIN
    while time.monotonic() < until and is_running():
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"a receiver does not listen; its log:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def sink(place: Place, name: str) -> Iterator[Receiver]:
    """Read, and store nothing or what a durable receiver must, as `benchmarks.dicom_sink` says."""
    folder, port = place.make(name), free_port()
    target = "-" if name == "sink" else str(folder)
    command = [sys.executable, "-m", "benchmarks.dicom_sink", str(port), target, *place.files]
    with _running(command, port, folder) as process:
        yield Receiver(port, (process,), folder)


@contextmanager
def storescp(place: Place) -> Iterator[Receiver]:
    """Run dcmtk's storescp as it is fastest: bytes as they come, large PDUs, a process per association. No flush."""
    folder, port = place.make("storescp"), free_port()
    tls = [] if place.tls is None else ["+tls", str(place.tls.key), str(place.tls.certificate)]
    tls += [] if place.tls is None else ["+cf", str(place.tls.authority)]
    command = ["storescp", "--fork", "-B", "+xa", "-dhl", "-pdu", str(MOST_PDU), "-od", str(folder), *tls, str(port)]
    with _running(command, port, folder, **NO_NAGLE) as process:
        yield Receiver(port, (process,), folder)


@contextmanager
def orthanc(place: Place) -> Iterator[Receiver]:
    """Run Orthanc with its defaults, which flush each file, and large PDUs."""
    folder, port = place.make("orthanc"), free_port()
    settings: dict[str, object] = {
        "DicomServerEnabled": True,
        "DicomAet": TITLE,
        "DicomPort": port,
        "DicomAlwaysAllowStore": True,
        "MaximumPduLength": MOST_PDU,
        "Plugins": [],
    }
    if place.tls is not None:
        settings |= {
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(place.tls.certificate),
            "DicomTlsPrivateKey": str(place.tls.key),
            "DicomTlsTrustedCertificates": str(place.tls.authority),
        }
    server = Orthanc(folder, **settings)
    os.environ |= NO_NAGLE
    server.start()
    try:
        yield Receiver(port, (psutil.Process(server.pid),), folder / "storage")
    finally:
        server.end()


@contextmanager
def pynetdicom(place: Place, how: str) -> Iterator[Receiver]:
    """Run pynetdicom's AE with a handler that stores durably."""
    folder, port = place.make(f"pynetdicom-{how}"), free_port()
    command = [sys.executable, "-m", "benchmarks.pynetdicom_scp", str(folder), str(port), how, *place.files]
    with _running(command, port, folder) as process:
        yield Receiver(port, (process,), folder)


@contextmanager
def edge(place: Place, kind: str) -> Iterator[Receiver]:
    """Run the edge: ``s3``, ``spool``, or ``away``, a spool while S3 does not answer."""
    folder, port = place.make(f"edge-{kind}"), free_port()
    endpoint = f"http://127.0.0.1:{free_port()}" if kind == "away" else place.s3
    settings = folder / "edge.yaml"
    settings.write_text(yaml.safe_dump(make_settings(folder / "state", port, endpoint, kind, place.tls)))
    command = [sys.executable, "-m", "airlock_edge", "run", str(settings)]
    with _running(command, port, folder, **_CREDENTIALS) as process:
        spool = folder / "state" / "spool"
        yield Receiver(port, (process,), folder / "state", None if kind == "away" else spool)


def make_settings(state: Path, port: int, endpoint: str, kind: str, tls: Certificates | None) -> dict[str, object]:
    """Return the content of a settings file."""
    listen: dict[str, object] = {"address": "127.0.0.1", "port": port, "ae_title": TITLE}
    if tls is not None:
        files = {"certificate": tls.certificate, "key": tls.key, "client_authorities": tls.authority}
        listen["tls"] = {name: str(path) for name, path in files.items()}
    return {
        "schema": "airlock.edge/1",
        "site": "bench",
        "state": str(state),
        "listen": listen,
        "peers": [{"ae_title": CALLING, "addresses": ["127.0.0.1"]}],
        "destination": {"uri": f"s3://{BUCKET}/in/", "region_name": REGION, "endpoint_url": endpoint},
        "store": "s3" if kind == "s3" else "spool",
        "spool": {"redundant": True, "refuse_percent": 98, "alarm_percent": 98},
    }


RECEIVERS: dict[str, tuple[str, Callable[[Place], AbstractContextManager[Receiver]]]] = {
    "sink": ("nothing stored (sender's limit)", lambda place: sink(place, "sink")),
    "flush": ("write and flush only (disk's limit)", lambda place: sink(place, "flush")),
    "storescp": ("dcmtk storescp, no flush", storescp),
    "orthanc": ("Orthanc", orthanc),
    "pynetdicom": ("pynetdicom AE, whole objects", lambda place: pynetdicom(place, "whole")),
    "pynetdicom-pieces": ("pynetdicom AE, in pieces", lambda place: pynetdicom(place, "pieces")),
    "edge-spool": ("edge, store: spool", lambda place: edge(place, "spool")),
    "edge-away": ("edge, store: spool, S3 away", lambda place: edge(place, "away")),
    "edge-s3": ("edge, store: s3", lambda place: edge(place, "s3")),
}
"""Each receiver's title and how it is started, by its name."""
