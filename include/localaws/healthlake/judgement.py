"""The outcome of one line of an import: a resource to store, or the reason of its rejection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localaws.faults import RESOURCE_KINDS
from localaws.fhir import Issue, Level
from localaws.healthlake.counts import FLAGGED, IMPORTED, REJECTED, SERVER_ERROR, UNREACHED, UNREADABLE
from localaws.healthlake.documents import read_document
from localaws.healthlake.validation import mark_issues

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localaws.faults import Fault
    from localaws.fhir import Validator
    from localaws.healthlake.ndjson import Line

WITHOUT_ID = Issue("error", "required", "The resource has no id; HealthLake imports resources under their own id")
REFUSED = Issue("error", "processing", "The resource could not be imported")


@dataclass(frozen=True)
class Judgement:
    """The outcome of a line so far, and the resource if it is to be stored.

    Parameters
    ----------
    outcome : str
        One of the outcomes of `localaws.healthlake.counts`.
    issues : tuple of Issue
        The reasons of a rejection, or the findings on a resource that is stored.
    message : str
        The reason why the line is not a resource.
    """

    line: Line
    outcome: str
    resource_type: str | None = None
    resource_id: str | None = None
    issues: tuple[Issue, ...] = ()
    message: str = ""
    resource: dict[str, Any] | None = None


class Judge:
    """Judges lines at one validation level, under the faults of one job.

    Parameters
    ----------
    validator : Validator
    level : Level
    faults : sequence of Fault
        Those of the job.
    key : str
        The input file's key.
    """

    def __init__(self, validator: Validator, level: Level, faults: Sequence[Fault], key: str) -> None:
        self._validator = validator
        self._level = level
        self._file_kinds = {fault.kind for fault in faults if fault.kind not in RESOURCE_KINDS and fault.touches(key)}
        self._resource_faults = [fault for fault in faults if fault.kind in RESOURCE_KINDS]

    def judge(self, line: Line) -> Judgement:
        """Return the outcome of a line; no content of the line raises."""
        if line.body is None:
            return Judgement(line, UNREADABLE, message=f"The line has {line.size} bytes, which is too long")
        try:
            document = read_document(line.body.decode())
        except (ValueError, RecursionError):
            return Judgement(line, UNREADABLE, message="The line is not valid JSON")
        if not isinstance(document, dict):
            return Judgement(line, UNREADABLE, message="The line is not a JSON object")
        return self._judge_resource(line, document)

    def _judge_resource(self, line: Line, resource: dict[str, Any]) -> Judgement:
        name = (_text(resource.get("resourceType")), _text(resource.get("id")))
        if "id" not in resource:
            return Judgement(line, REJECTED, *name, (WITHOUT_ID,))
        struck = self._find_fault(f"{name[0]}/{name[1]}")
        if struck in {SERVER_ERROR, UNREACHED}:
            return Judgement(line, struck, *name)
        if struck == REJECTED:
            return Judgement(line, REJECTED, *name, (REFUSED,))
        findings = self._validator.check(resource, self._level)
        if findings.rejected:
            return Judgement(line, REJECTED, *name, findings.issues)
        issues = findings.issues if self._level is Level.MINIMAL else ()
        return Judgement(line, FLAGGED if issues else IMPORTED, *name, issues, resource=mark_issues(resource, issues))

    def _find_fault(self, key: str) -> str | None:
        """Return the outcome that a fault gives the resource `key`."""
        kinds = self._file_kinds | {fault.kind for fault in self._resource_faults if fault.touches(key)}
        if "cancelled" in kinds:
            return UNREACHED
        if kinds & {"server_error_on_files", "server_error_on_resources"}:
            return SERVER_ERROR
        return REJECTED if kinds & {"all_files_rejected", "all_resources_rejected"} else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
