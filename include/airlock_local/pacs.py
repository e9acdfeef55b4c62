"""Orthanc as a hospital's PACS, for ``make demo-edge``: found on the machine (Debian: orthanc), never shipped."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import httpx

from airlock_local.environment import inherited
from airlock_local.processes import end_processes, launch
from airlock_local.settings import LOOPBACK
from airlock_local.stack import StackError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

TITLE = "PACS"
PROGRAM = "Orthanc"
MISSING = f"{PROGRAM} is not installed. It stands for the hospital's PACS. Debian: apt-get install orthanc"
_USER = "demo"
_IDENTIFIERS = "PatientID", "PatientName", "AccessionNumber", "StudyInstanceUID"
_CONFIGURATION = "orthanc.json"
_READY_SECONDS = 60
_AT_A_TIME = 50  # instances of one request to send
_SECONDS = 600.0  # of one request: Orthanc answers when it has sent


def free_port() -> int:
    """Return a TCP port of loopback on which nobody listens."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Committed:
    """The answer to a commitment request.

    Attributes
    ----------
    succeeded
        SOP Instance UIDs.
    failed
        The Failure Reason of the others.
    """

    succeeded: frozenset[str]
    failed: dict[str, int]


class Pacs:
    """A PACS on loopback with an empty archive; a context manager.

    Parameters
    ----------
    folder
        Of its archive and its log; what an earlier one left there is deleted.
    environment
        The caller's.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self.port = free_port()
        self._password = secrets.token_urlsafe(12)
        self._http = httpx.Client(
            base_url=f"http://{LOOPBACK}:{free_port()}", auth=(_USER, self._password), timeout=_SECONDS, trust_env=False
        )

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        (self._folder / _CONFIGURATION).write_text(json.dumps(self._configure()))
        self._start()
        return self

    def _start(self) -> None:
        argv = shutil.which(PROGRAM) or PROGRAM, str(self._folder / _CONFIGURATION)
        environment = inherited(self._environment, account=False)
        self._running, _ = launch(argv, environment, self._folder, self._folder / "orthanc.log")
        try:
            self._await_answer()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end_processes([self._running])
        self._http.close()

    def _configure(self) -> dict[str, Any]:
        return {
            "Name": "demo",
            "HttpPort": self._http.base_url.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {_USER: self._password},
            "DicomAet": TITLE,
            "DicomPort": self.port,
            "StorageDirectory": str(self._folder / "archive"),
            "IndexDirectory": str(self._folder / "archive"),
            "TranscodeDicomProtocol": False,  # it sends what it has
            "Plugins": [],
        }

    def _await_answer(self) -> None:
        until = time.monotonic() + _READY_SECONDS
        while time.monotonic() < until and self._running.is_alive():
            with suppress(httpx.TransportError):
                if self._http.get("/system").is_success:
                    return
            time.sleep(0.2)
        raise StackError(f"{PROGRAM} does not answer. The end of its log:\n{self._running.log_tail()}")

    def take(self, content: bytes) -> str | None:
        """Store a file in the archive; return its name there, or None if it is not one that a PACS takes.

        A file of the sample that nests its sequences without end makes Orthanc end; it is started again.
        """
        try:
            answer = self._http.post("/instances", content=content)
        except httpx.TransportError:
            end_processes([self._running])
            self._start()
            return None
        if not answer.is_success:
            return None
        taken = answer.json()
        if not isinstance(taken, dict):  # a ZIP archive
            return None
        name = str(taken["ID"])
        if self._http.get(f"/instances/{name}/metadata/SopClassUid").is_success:
            return name
        self._http.delete(
            f"/instances/{name}"
        ).raise_for_status()  # without its class it can neither be sent nor asked for
        return None

    def find_uid(self, name: str) -> str:
        """Return the SOP Instance UID of an instance; two may have the same, in studies of two patients."""
        found = self._http.get(f"/instances/{name}").raise_for_status().json()
        return str(found["MainDicomTags"]["SOPInstanceUID"])

    def list_identifiers(self) -> set[str]:
        """Return the names, numbers and UIDs of the patients and studies in the archive."""
        studies = self._http.get("/studies", params={"expand": ""}).raise_for_status().json()
        tags = [study["MainDicomTags"] | study["PatientMainDicomTags"] for study in studies]
        return {str(one[name]) for one in tags for name in _IDENTIFIERS if one.get(name)}

    def send(self, names: Sequence[str], edge_title: str, edge_port: int) -> None:
        """Send instances to the edge by C-STORE; those that the edge does not take are left out."""
        known = {"AET": edge_title, "Host": LOOPBACK, "Port": edge_port, "AllowStorageCommitment": True}
        self._http.put("/modalities/edge", json=known).raise_for_status()
        for first in range(0, len(names), _AT_A_TIME):
            asked = {"Resources": list(names[first : first + _AT_A_TIME]), "Synchronous": True, "Permissive": True}
            self._http.post("/modalities/edge/store", json=asked).raise_for_status()

    def ask_commitment(self, names: Sequence[str]) -> str:
        """Ask the edge to commit to instances; return what `commitment` takes."""
        answer = self._http.post("/modalities/edge/storage-commitment", json={"Resources": list(names)})
        return str(answer.raise_for_status().json()["Path"])

    def commitment(self, path: str) -> Committed | None:
        """Return the edge's answer; None while there is none."""
        answer = self._http.get(path).raise_for_status().json()
        if answer["Status"] == "Pending":
            return None
        failed = {one["SOPInstanceUID"]: int(one["FailureReason"]) for one in answer["Failures"]}
        return Committed(frozenset(one["SOPInstanceUID"] for one in answer["Success"]), failed)
