"""Fault switches: which fault occurs, for which job, key or call, and how often."""

from __future__ import annotations

import json
import threading
import uuid
import zlib
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from localaws.errors import invalid

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Sequence

    from localaws.state import State

CALL_KINDS = frozenset({"throttle_storm", "quota_storm", "slow_responses", "lost_response", "role_not_assumable"})
EVERY_JOB = frozenset(
    {
        "manifest_late",
        "manifest_missing",
        "job_failed_with_output",
        "job_failed_without_output",
        "stuck_in_progress",
    }
)
CHANGE_KINDS = frozenset({"copy_failed", "update_failed", "create_failed"})
"""Changes of an image set or a new data store that HealthImaging accepts and then fails."""
RESOURCE_KINDS = frozenset({"all_resources_rejected", "server_error_on_resources", "cancelled"})
FILE_KINDS = frozenset({"all_files_rejected", "server_error_on_files", "manifest_partial"}) | RESOURCE_KINDS
DICOM_IMPORT = EVERY_JOB | FILE_KINDS - RESOURCE_KINDS
FHIR_EXPORT = EVERY_JOB | {"queued_long", "completed_with_errors", "cancelled"}
DATA_TRANSFORMATION = DICOM_IMPORT | {"queued_long", "completed_with_errors"}
JOB_KINDS = FHIR_IMPORT = DATA_TRANSFORMATION | RESOURCE_KINDS
"""The kinds of faults that each sort of job knows; other kinds do not affect it and are not used up."""

ANSWERS: dict[str, tuple[str, ...]] = {
    "lost_response": ("drop", "500"),
    "role_not_assumable": ("AccessDeniedException", "ValidationException"),
    "cancelled": ("CANCEL_COMPLETED", "CANCEL_FAILED"),
}
"""The answers that a kind of fault can give; the first is the default."""


@dataclass(frozen=True)
class Fault:
    """One fault switch; patterns are shell patterns and match everything when left out.

    Parameters
    ----------
    kind : str
        One of `CALL_KINDS`, `CHANGE_KINDS` or `JOB_KINDS`.
    job_name, input_s3_uri : str
        Patterns for the import job (for call faults: of the job that the call starts or asks about).
    key : str
        Pattern for object keys, or for ``<resource type>/<id>``; only for the kinds that touch single files or
        resources.
    operation : str
        Pattern for the operation; only for call faults.
    times : int, optional
        Jobs, changes or calls after which the fault is used up; without it, the fault lasts until it is removed.
    seconds : float, optional
        Length of ``manifest_late``, ``slow_responses`` (default 1), ``stuck_in_progress`` and ``queued_long``
        (default: until the fault is removed).
    share : float
        Fraction of the matching files or resources that is touched, 0 to 1; which ones depends on the keys alone.
    keep_results : bool
        ``manifest_missing`` only: write the ndjson files, leave out the manifest alone.
    answer : str, optional
        One of `ANSWERS`: what a lost response looks like, the error of a role that cannot be assumed, or the status of
        a cancelled job.
    """

    kind: str
    job_name: str = "*"
    input_s3_uri: str = "*"
    key: str = "*"
    operation: str = "*"
    times: int | None = None
    seconds: float | None = None
    share: float = 1.0
    keep_results: bool = False
    answer: str | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def touches(self, key: str) -> bool:
        """Return whether this fault touches the file or resource `key`."""
        return fnmatchcase(key, self.key) and zlib.crc32(key.encode()) < self.share * (1 << 32)

    @property
    def touches_all(self) -> bool:
        """True if every file or resource is touched."""
        return self.key == "*" and self.share >= 1

    def matches_job(self, job_name: str, input_s3_uri: str) -> bool:
        """Return whether this fault is meant for a job of this name and input."""
        return fnmatchcase(job_name, self.job_name) and fnmatchcase(input_s3_uri, self.input_s3_uri)

    def strikes(self, operation: str) -> bool:
        """Return whether this call fault is meant for `operation`; only operations that start a job need a role."""
        starts = self.kind != "role_not_assumable" or operation.startswith("Start")
        return starts and fnmatchcase(operation, self.operation)

    @property
    def chosen_answer(self) -> str:
        """The answer that the client gets."""
        return self.answer or ANSWERS[self.kind][0]

    @property
    def duration(self) -> float:
        """Seconds that a delay lasts."""
        return 1.0 if self.seconds is None else self.seconds


def read_fault(body: Any) -> Fault:
    """Check one fault of a request.

    Raises
    ------
    AwsError
        ValidationException that names the field and the fix.
    """
    kinds = CALL_KINDS | CHANGE_KINDS | JOB_KINDS
    if not isinstance(body, dict) or body.get("kind") not in kinds:
        raise invalid(f"A fault is an object whose kind is one of {', '.join(sorted(kinds))}.")
    known = {item.name for item in fields(Fault)} - {"id"}
    unknown = set(body) - known
    if unknown:
        raise invalid(f"A fault has no field {', '.join(sorted(unknown))}; its fields are {', '.join(sorted(known))}.")
    fault = Fault(**body)
    for problem in _problems(fault, body):
        raise invalid(f"{fault.kind}: {problem}")
    return fault


def _problems(fault: Fault, body: dict[str, Any]) -> Iterable[str]:
    for name in ("job_name", "input_s3_uri", "key", "operation"):
        if not isinstance(getattr(fault, name), str):
            yield f"{name} must be a shell pattern."
    for name, low, high in (("times", 1, 1 << 31), ("seconds", 0, 86_400), ("share", 0, 1)):
        value = getattr(fault, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield f"{name} must be a number."
        elif value is not None and not low <= value <= high:
            yield f"{name} must lie between {low} and {high}."
    if fault.answer is not None and fault.answer not in ANSWERS.get(fault.kind, ()):
        yield f"answer must be {' or '.join(ANSWERS.get(fault.kind, ('left out',)))}."
    if "key" in body and fault.kind not in FILE_KINDS:
        yield f"key only makes sense for {', '.join(sorted(FILE_KINDS))}."
    if "operation" in body and fault.kind not in CALL_KINDS:
        yield f"operation only makes sense for {', '.join(sorted(CALL_KINDS))}."


class FaultBoard:
    """The switched-on faults; kept in the state, so that a restart does not lose them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()
        with state.read() as connection:
            self._faults = [Fault(**json.loads(row["body"])) for row in connection.execute("SELECT body FROM fault")]

    def replace(self, bodies: Any) -> list[dict[str, Any]]:
        """Switch on exactly these faults; return them as they are now.

        Raises
        ------
        AwsError
            ValidationException: not a list of faults. Nothing is changed then.
        """
        if not isinstance(bodies, list):
            raise invalid("Send a JSON list of faults.")
        faults = [read_fault(body) for body in bodies]
        with self._lock, self._state.write() as connection:
            connection.execute("DELETE FROM fault")
            connection.executemany(
                "INSERT INTO fault VALUES (?, ?, ?)",
                [(fault.id, json.dumps(asdict(fault)), fault.times) for fault in faults],
            )
            self._faults = faults
        return self.standing()

    def standing(self) -> list[dict[str, Any]]:
        """Return every fault with ``remaining``, the number of times it can still strike."""
        with self._state.read() as connection:
            rows = connection.execute("SELECT body, remaining FROM fault").fetchall()
        return [{**json.loads(row["body"]), "remaining": row["remaining"]} for row in rows]

    def is_on(self, fault_id: str) -> bool:
        """Return whether this fault is still switched on."""
        return any(fault.id == fault_id for fault in self._faults)

    @property
    def any_for_calls(self) -> bool:
        """True if any call fault is switched on."""
        return any(fault.kind in CALL_KINDS for fault in self._faults)

    def for_call(self, operation: str, job_name: str, input_s3_uri: str) -> list[Fault]:
        """Return the faults that strike this call, and count them as used."""
        candidates = [
            fault
            for fault in self._faults
            if fault.kind in CALL_KINDS and fault.strikes(operation) and fault.matches_job(job_name, input_s3_uri)
        ]
        if not candidates:
            return []
        with self._state.write() as connection:
            return self._use_up(connection, candidates)

    def for_job(
        self, connection: sqlite3.Connection, kinds: Collection[str], job_name: str, input_s3_uri: str
    ) -> list[Fault]:
        """Return the faults that a new job gets, counted as used in the transaction that makes the job.

        Parameters
        ----------
        connection : sqlite3.Connection
        kinds : collection of str
            Those that this sort of job knows, as `FHIR_IMPORT`.
        job_name, input_s3_uri : str
        """
        candidates = [
            fault for fault in self._faults if fault.kind in kinds and fault.matches_job(job_name, input_s3_uri)
        ]
        return self._use_up(connection, candidates)

    def strikes_change(self, connection: sqlite3.Connection, kind: str) -> bool:
        """Return whether a change fails, and count the fault as used in the transaction that begins the change."""
        return bool(self._use_up(connection, [fault for fault in self._faults if fault.kind == kind]))

    @staticmethod
    def _use_up(connection: sqlite3.Connection, candidates: Sequence[Fault]) -> list[Fault]:
        used = []
        for fault in candidates:
            changed = connection.execute(
                "UPDATE fault SET remaining = remaining - 1 WHERE id = ? AND (remaining IS NULL OR remaining > 0)",
                (fault.id,),
            )
            if changed.rowcount:
                used.append(fault)
        return used
