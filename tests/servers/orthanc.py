"""Orthanc with its DICOMweb plugin, a real PACS: found on the machine (Debian: orthanc-dicomweb), never shipped.

It listens on a free port and answers this machine only. Its storage outlives a kill, not the test.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.servers.ports import free_port
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
MISSING = "Orthanc with its DICOMweb plugin is not installed (Debian: apt-get install orthanc orthanc-dicomweb)"
USER, PASSWORD = "airlock", "orthanc"


def is_installed() -> bool:
    """Say whether the machine has the server and the plugin."""
    return shutil.which("Orthanc") is not None and PLUGIN.exists()


class Orthanc:
    """A server that can be killed and started again over the same storage.

    Parameters
    ----------
    folder
        Of its configuration and its storage.
    changes
        Of its configuration.
    """

    def __init__(self, folder: Path, **changes: Any) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        port = free_port()
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/dicom-web"
        settings = {
            "HttpPort": port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomServerEnabled": False,
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGIN)],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings | changes))

    @property
    def pid(self) -> int:
        """The id of its process, once it was started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(["Orthanc", self._folder / "orthanc.json"], stdout=log, stderr=log)
        until("Orthanc answers", self._answers, patience=60)

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"Orthanc has ended:\n{(self._folder / 'log').read_text()}")
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.root}/system", auth=(USER, PASSWORD)).is_success
        return False

    def end(self, by: signal.Signals = signal.SIGTERM) -> None:
        """End the server and wait until it has ended."""
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(60)
            self._process = None

    def ask(self, path: str) -> httpx.Response:
        """Get something by the server's own REST API or by DICOMweb."""
        answer = httpx.get(self.root + path, auth=(USER, PASSWORD), headers={"Accept": "application/dicom+json, */*"})
        return answer.raise_for_status()

    def instances(self) -> set[str]:
        """Return the SOPInstanceUID of all that it holds, as its Search Transaction (QIDO-RS) says."""
        return {item["00080018"]["Value"][0] for item in self.ask("/dicom-web/instances?limit=100000").json()}

    def count(self) -> int:
        """Return how many instances it holds."""
        return int(self.ask("/statistics").json()["CountInstances"])

    def changes(self) -> int:
        """Return the number of the last change of what it holds."""
        return int(self.ask("/changes?limit=1&last").json()["Last"])

    def files(self) -> dict[str, bytes]:
        """Return the files as they are stored, by SOPInstanceUID."""
        named = {name: self.ask(f"/instances/{name}").json() for name in self.ask("/instances").json()}
        uids = {name: found["MainDicomTags"]["SOPInstanceUID"] for name, found in named.items()}
        return {uid: self.ask(f"/instances/{name}/file").content for name, uid in uids.items()}


@contextmanager
def orthanc(**changes: Any) -> Iterator[Orthanc]:
    """Yield a started, empty server."""
    folder = Path(tempfile.mkdtemp(prefix="airlock-orthanc-"))
    server = Orthanc(folder, **changes)
    try:
        server.start()
        yield server
    finally:
        server.end(signal.SIGKILL)  # its storage goes with it
        shutil.rmtree(folder)
