"""The validator's results: validation levels, issues, and the OperationOutcome made of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

REFUSING = frozenset({"fatal", "error"})
# The display texts of https://hl7.org/fhir/R4/valueset-issue-type.html, as far as the validator uses its codes.
DISPLAYS = {
    "code-invalid": "Invalid Code",
    "informational": "Informational Note",
    "invalid": "Invalid Content",
    "invariant": "Validation rule failed",
    "not-found": "Not Found",
    "not-supported": "Content not supported",
    "required": "Required element missing",
    "structure": "Structural Issue",
    "too-costly": "Operation Too Costly",
    "too-long": "Content Too Long",
    "value": "Element value invalid",
}


class Level(StrEnum):
    """The depth of validation: HealthLake's ``ValidationLevel``."""

    STRICT = "strict"
    STRUCTURE_ONLY = "structure-only"
    MINIMAL = "minimal"


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong, or worth saying; its texts name elements and rules, never values of the resource.

    Attributes
    ----------
    severity
        ``fatal``, ``error``, ``warning`` or ``information``.
    code
        A code of https://hl7.org/fhir/R4/valueset-issue-type.html.
    diagnostics
        A sentence: the rule, and the allowed codes where they are few.
    location
        The elements concerned, as FHIRPath: ``Patient.name[0].family``.
    """

    severity: str
    code: str
    diagnostics: str
    location: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the issue as an element of ``OperationOutcome.issue``."""
        issue: dict[str, Any] = {
            "severity": self.severity,
            "code": self.code,
            "details": {"text": DISPLAYS.get(self.code, self.code)},
            "diagnostics": self.diagnostics,
        }
        return issue | ({"location": list(self.location)} if self.location else {})


@dataclass(frozen=True)
class Findings:
    """The verdict on one resource.

    Attributes
    ----------
    rejected
        Whether the data store refuses the resource at the level asked for: an issue is fatal or an error.
    issues
        What was found, in the order of the resource.
    """

    rejected: bool
    issues: tuple[Issue, ...]

    @classmethod
    def of(cls, issues: Iterable[Issue]) -> Findings:
        """Return the verdict that follows from the issues."""
        found = tuple(issues)
        return cls(any(issue.severity in REFUSING for issue in found), found)


SUCCESS = Issue("information", "informational", "Validation successful")


def operation_outcome(issues: Iterable[Issue]) -> dict[str, Any]:
    """Return the OperationOutcome that ``$validate`` answers; one informational issue where nothing was found.

    See https://docs.aws.amazon.com/healthlake/latest/devguide/reference-fhir-operations-validate.html.
    """
    found = tuple(issues) or (SUCCESS,)
    return {"resourceType": "OperationOutcome", "issue": [issue.to_json() for issue in found]}
